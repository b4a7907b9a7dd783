import { mkdir, mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { connect, launchCluster, openLocal, type PredictRequest } from '../../src/index.js';
import { readModelSpec, writeModelJson } from '../../src/model/bundle.js';
import { modelSchema } from '../../src/model/spec.js';
import { writeSafetensors } from '../../src/tables/safetensors.js';
import { capacityPlan } from '../reference/plans.js';
import { random, referenceLogits, smallRequest, writeSmallModel } from '../reference/small-model.js';

test.each(['fp32', 'fp16', 'bf16'] as const)('tables of %s give the scores of the reference, local and sharded', async (format) => {
  const model = await writeSmallModel(61, { format, activation: 'none' });
  const spec = await readModelSpec(model.dir);
  const plan = capacityPlan(spec, 2);
  const names = plan.shards.map(({ name }) => name);
  const split = { ...plan, tables: plan.tables.map(({ table }, t) => ({ table, parts: t === 0 ? names.slice(0, 1) : names })) };
  const local = await openLocal(model.dir, { deadlineMs: 10_000 });
  const cluster = await launchCluster(split, { bundle: model.dir, ephemeralPorts: true, logLevel: 'error' });
  const sharded = await connect(cluster.plan, { deadlineMs: 10_000, bundle: model.dir });
  const next = random(17);
  for (let n = 0; n < 50; n++) {
    const items = 1 + (n % 6);
    const request = smallRequest(next, items);
    const { logits, scales } = referenceLogits(model, request, items);
    for (const predictor of [local, sharded]) {
      const { scores } = await predictor.predict(request);
      logits.forEach((logit, item) =>
        expect(Math.abs((scores[item] as number) - logit)).toBeLessThanOrEqual(1e-5 * (scales[item] as number)),
      );
    }
  }
  await sharded.close();
  await cluster.stop();
  await local.close();
  await rm(model.dir, { recursive: true });
});

// Opening it brings 4 GiB of zeros into the page cache, so that it runs on demand: TERABAG_TEST_LARGE=1 npx vitest run test/integration/formats.test.ts
test.runIf(process.env['TERABAG_TEST_LARGE'] === '1')(
  'a table of more than 2^31 rows is read at its last rows, local and sharded',
  async () => {
    const dir = await mkdtemp(join(tmpdir(), 'terabag-large-'));
    await mkdir(join(dir, 'tables'));
    const rows = 2 ** 31 + 8;
    const header = Buffer.from(JSON.stringify({ weight: { dtype: 'F16', shape: [rows, 1], data_offsets: [0, rows * 2] } }).padEnd(88));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(header.length));
    const path = join(dir, 'tables/large.safetensors');
    const file = await open(path, 'w');
    await file.write(Buffer.concat([length, header]), 0, 8 + header.length, 0);
    await file.truncate(8 + header.length + rows * 2);
    // Row 0 is 1, row 2^31 is 2, the last row is 3.
    for (const [row, bits] of [
      [0, 0x3c00],
      [2 ** 31, 0x4000],
      [rows - 1, 0x4200],
    ] as const)
      await file.write(Buffer.from(Uint16Array.of(bits).buffer), 0, 2, 8 + header.length + row * 2);
    await file.close();
    const dense = await writeSafetensors(join(dir, 'dense.safetensors'), [
      { name: 'top.weight', dtype: 'F32', shape: [1, 1], data: new Uint8Array(Float32Array.of(1).buffer) },
    ]);
    await writeModelJson(
      dir,
      modelSchema.parse({
        terabag: 1,
        name: 'large',
        version: '1',
        dense: [],
        tables: [{ name: 'large', rows, dim: 1, format: 'fp16', file: 'tables/large.safetensors', tensor: 'weight' }],
        nets: [
          {
            name: 'net',
            layers: [
              { type: 'embedding_bag', name: 'ids', table: 'large' },
              { type: 'fc', name: 'top', input: 'ids', weight: 'top.weight' },
            ],
          },
        ],
        output: 'top',
        files: {
          'dense.safetensors': dense,
          'tables/large.safetensors': { bytes: 8 + header.length + rows * 2, crc32: new Array(65).fill('00000000') },
        },
      }),
    );
    const spec = await readModelSpec(dir);
    const plan = capacityPlan(spec, 2);
    const split = { ...plan, tables: [{ table: 'large', parts: plan.shards.map(({ name }) => name) }] };
    const request = (indices: bigint[] | BigInt64Array | number[]): PredictRequest => ({
      dense: {},
      sparse: { ids: { indices, offsets: [0, 1, 3, 3] } },
    });
    const local = await openLocal(dir, { deadlineMs: 10_000, verify: 'size' });
    const cluster = await launchCluster(split, { bundle: dir, ephemeralPorts: true, logLevel: 'error', verify: 'size' });
    const sharded = await connect(cluster.plan, { deadlineMs: 10_000, bundle: dir });
    const ids = [rows - 1, 0, 2 ** 31];
    for (const predictor of [local, sharded]) {
      for (const indices of [ids, ids.map(BigInt), BigInt64Array.from(ids, BigInt)])
        expect(Array.from((await predictor.predict(request(indices), { deadlineMs: 10_000 })).scores)).toEqual([3, 3, 0]);
      await expect(predictor.predict(request([0n, BigInt(rows), 0n]))).rejects.toMatchObject({
        code: 'index_out_of_range',
        details: { table: 'large', bag: 1, position: 1, index: String(rows), rows: String(rows) },
      });
      await expect(predictor.predict(request(BigInt64Array.of(0n, 0n, -1n)))).rejects.toMatchObject({ details: { bag: 1, position: 2 } });
    }
    await sharded.close();
    await cluster.stop();
    await local.close();
    await rm(dir, { recursive: true });
  },
);
