import { execFileSync } from 'node:child_process';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Cluster, connect, launchCluster, openLocal, type Predictor, type PredictRequest } from '../../src/index.js';
import { writeRequests } from '../../src/lab/index.js';
import { openBundle, readModelSpec, writeModelJson } from '../../src/model/bundle.js';
import { modelHash } from '../../src/model/hash.js';
import { type ModelSpec, modelSchema } from '../../src/model/spec.js';
import { readSafetensorsHeader, readTensor, writeSafetensors } from '../../src/tables/safetensors.js';
import { type NetsShape, netsRequest, writeNetsModel } from '../reference/nets-model.js';
import { capacityPlan } from '../reference/plans.js';
import { random } from '../reference/small-model.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const SHAPE: NetsShape = { seed: 71, nets: 3, tablesPerNet: 3, rows: 40, dim: 7, hidden: 5 };
/** In stage 0, in that of the first net, and in that of the last. */
const FURTHER = ['bottom', 'n0_fc', 'n2_all'];

let dir: string;
let several: string;
let spec: ModelSpec;
let cluster: Cluster;
let alone: Map<string, Predictor>;
const opened: Predictor[] = [];

/** The same model with other outputs. */
async function withOutputs(name: string, more: Partial<ModelSpec>): Promise<string> {
  const copy = join(dir, name);
  await cp(join(dir, 'model'), copy, { recursive: true });
  await writeModelJson(copy, modelSchema.parse({ ...spec, ...more }));
  return copy;
}

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-outputs-'));
  spec = (await writeNetsModel(join(dir, 'model'), SHAPE)).spec;
  several = await withOutputs('several', { outputs: FURTHER });
  alone = new Map();
  for (const output of [spec.output, ...FURTHER])
    alone.set(output, await openLocal(await withOutputs(`only-${output}`, { output }), { deadlineMs: 10_000 }));
  cluster = await launchCluster(capacityPlan(await readModelSpec(several), 2), {
    bundle: several,
    ephemeralPorts: true,
    logLevel: 'error',
  });
});
afterAll(async () => {
  await Promise.all([...opened, ...(alone?.values() ?? [])].map((predictor) => predictor.close()));
  await cluster?.stop();
  await rm(dir, { recursive: true });
});

async function expectAll(predictor: Predictor, request: PredictRequest): Promise<void> {
  const { scores, scoreDim, outputs = {} } = await predictor.predict(request);
  expect(scoreDim).toBe(1);
  const expected = new Map<string, number[]>();
  for (const [name, only] of alone) expected.set(name, Array.from((await only.predict(request)).scores));
  expect(Array.from(scores)).toEqual(expected.get(spec.output));
  expect(Object.keys(outputs)).toEqual(FURTHER);
  for (const [name, values] of Object.entries(outputs)) expect(Array.from(values), name).toEqual(expected.get(name));
}

test('further outputs have the bits that they have as the only output, in every mode', async () => {
  const modes = [
    {},
    { dedup: true },
    { rpc: 'paper' },
    { rpc: 'paper', batchItems: 1 },
    { rpc: 'paper', batchItems: 4, dedup: true },
  ] as const;
  opened.push(await openLocal(several, { deadlineMs: 10_000 }));
  for (const mode of modes) opened.push(await connect(cluster.plan, { deadlineMs: 10_000, bundle: several, ...mode }));
  for (const items of [1, 2, 9, 130]) {
    const request = netsRequest(SHAPE, random(items), items, { poolingFactor: 3 });
    for (const predictor of opened) await expectAll(predictor, request);
  }
  const none = await opened[0]!.predict(netsRequest(SHAPE, random(1), 0, { poolingFactor: 1 }));
  expect(none.outputs).toEqual(Object.fromEntries(FURTHER.map((name) => [name, new Float32Array(0)])));
});

test('a model without further outputs gives none, and keeps its hash', async () => {
  const predictor = alone.get(spec.output)!;
  const prediction = await predictor.predict(netsRequest(SHAPE, random(3), 2, { poolingFactor: 2 }));
  expect(Object.keys(prediction)).not.toContain('outputs');
  expect(predictor.modelHash).toBe(modelHash(spec));
  expect(modelHash(modelSchema.parse({ ...spec, outputs: FURTHER }))).not.toBe(modelHash(spec));
});

test('terabag predict gives further outputs beside the scores, as lines and as tensors', async () => {
  const request = netsRequest(SHAPE, random(5), 3, { poolingFactor: 2 });
  const { scores, outputs } = await opened[0]!.predict(request);
  const predict = (...args: string[]) =>
    execFileSync(process.execPath, [main, 'predict', ...args, '--bundle', several], { encoding: 'utf8', stdio: 'pipe' });
  const lines = join(dir, 'requests.jsonl');
  await writeRequests(lines, [request]);
  const asNumbers = Object.fromEntries(Object.entries(outputs!).map(([name, values]) => [name, Array.from(values)]));
  expect(JSON.parse(predict(lines))).toEqual({ scores: Array.from(scores), outputs: asNumbers });

  const bytes = ({ buffer, byteOffset, byteLength }: Float32Array | Int32Array | Uint32Array): Uint8Array =>
    new Uint8Array(buffer, byteOffset, byteLength);
  const tensors = [
    { name: 'items', dtype: 'I32', shape: [1], data: bytes(Int32Array.of(3)) },
    ...Object.entries(request.dense).map(([name, values]) => ({
      ...{ name: `dense.${name}`, dtype: 'F32', shape: [values.length], data: bytes(values as Float32Array) },
    })),
    ...Object.entries(request.sparse).flatMap(([name, { indices, offsets, weights }]) => [
      { name: `sparse.${name}.indices`, dtype: 'I32', shape: [indices.length], data: bytes(indices as Int32Array) },
      { name: `sparse.${name}.offsets`, dtype: 'U32', shape: [offsets.length], data: bytes(offsets as Uint32Array) },
      ...(weights === undefined
        ? []
        : [{ name: `sparse.${name}.weights`, dtype: 'F32', shape: [weights.length], data: bytes(weights as Float32Array) }]),
    ]),
  ];
  const [given, answer] = [join(dir, 'one.safetensors'), join(dir, 'scores.safetensors')];
  await writeSafetensors(given, tensors);
  predict(given, '-o', answer);
  const header = await readSafetensorsHeader(answer);
  expect([...header.tensors.keys()]).toEqual(['scores', ...FURTHER.map((name) => `outputs.${name}`)]);
  for (const name of FURTHER) {
    const tensor = header.tensors.get(`outputs.${name}`)!;
    expect(tensor.shape).toEqual([3, outputs![name]!.length / 3]);
    expect(Buffer.from(await readTensor(header, tensor))).toEqual(Buffer.from(bytes(outputs![name]!)));
  }
});

test('formats and prunings are chosen by the output that the labels are of', async () => {
  const next = random(17);
  const some = (count: number) => Array.from({ length: count }, () => netsRequest(SHAPE, next, 4, { poolingFactor: 2 }));
  await writeRequests(join(dir, 'counted.jsonl'), some(5));
  await writeRequests(join(dir, 'scored.jsonl'), some(12));
  await writeFile(join(dir, 'labels.jsonl'), Array.from({ length: 48 }, () => `${next() < 0.4 ? 1 : 0}\n`).join(''));
  const files = [
    '--requests',
    'scored.jsonl',
    '--labels',
    'labels.jsonl',
    '--prune',
    'counted.jsonl',
    '--prune-below',
    '1',
    '--formats',
    'int8,int4',
  ];
  const pack = (bundle: string, output: string, ...more: string[]) => {
    const args = ['pack', bundle, '-o', output, '--format', 'auto', '--keep', 'ne=5%', '--logits', '--json', ...files, ...more];
    const { auto } = JSON.parse(execFileSync(process.execPath, [main, ...args], { cwd: dir, encoding: 'utf8', stdio: 'pipe' }));
    return auto as { loss: number; neBefore: number; choices: { loss: number }[] };
  };
  const ofOutput = pack(several, 'packed-several', '--score-of', 'n0_fc', '--score', '1');
  expect(ofOutput).toEqual(pack(join(dir, 'only-n0_fc'), 'packed-only', '--score', '1'));
  expect(ofOutput.loss).toBeLessThanOrEqual(0.05);
  expect(pack(several, 'packed-scores').neBefore).not.toBe(ofOutput.neBefore);
  const packed = await openLocal(join(dir, 'packed-several'), { deadlineMs: 10_000 });
  const request = some(1)[0] as PredictRequest;
  expect(Object.keys((await packed.predict(request).finally(() => packed.close())).outputs ?? {})).toEqual(FURTHER);
  expect(() => pack(several, 'refused-output', '--score-of', 'n9_fc')).toThrow(
    /there is no such further output: n9_fc; the model has bottom, n0_fc/,
  );
});

test('outputs that name nothing, a bag, or one twice are refused', async () => {
  const model = JSON.parse(await readFile(join(several, 'model.json'), 'utf8')) as object;
  const refused = await withOutputs('refused', {});
  for (const [outputs, message] of [
    [['nothing'], 'model.json: outputs[0]: has to name a layer that is no embedding bag: nothing'],
    [['bottom', 'n0_b0'], 'model.json: outputs[1]: has to name a layer that is no embedding bag: n0_b0'],
    [['bottom', 'bottom'], 'model.json: outputs[1]: is returned already: bottom'],
    [[spec.output], `model.json: outputs[0]: is returned already: ${spec.output}`],
  ] as const) {
    await writeFile(join(refused, 'model.json'), JSON.stringify({ ...model, outputs }));
    await expect(openBundle(refused)).rejects.toMatchObject({ code: 'bad_model', message });
  }
});
