import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { connect, launchCluster, openLocal, type Predictor, publish } from '../../src/index.js';
import { readModelSpec, writeModelJson } from '../../src/model/bundle.js';
import { openModel } from '../../src/model/open-model.js';
import type { OnnxSpec } from '../../src/model/spec.js';
import type { PredictRequest } from '../../src/predictor/predictor.js';
import { NEEDS_RUNTIME, onnxFixture, onnxRuntimeDirectory, withOnnx } from '../reference/onnx-model.js';
import { capacityPlan } from '../reference/plans.js';
import {
  keptOf,
  READERS,
  type Reader,
  rowsOf as rowsOfTable,
  type SequenceModel,
  writeSequenceModel,
} from '../reference/sequence-model.js';
import { type Given, requestOf, sequenceRequests } from '../reference/sequence-requests.js';

const SEQUENCES: OnnxSpec = {
  file: 'dense.onnx',
  inputs: [
    { name: 'late', value: 'late', lengths: 'late.lengths' },
    { name: 'dense', value: 'dense' },
    { name: 'history', value: 'history', lengths: 'history.lengths' },
    { name: 'clicks', value: 'clicks' },
    { name: 'largest', value: 'largest' },
  ],
  outputs: [{ name: 'score', layer: 'scores', dim: 9 }],
};
const USER: OnnxSpec = {
  file: 'dense.onnx',
  inputs: [
    { name: 'dense', value: 'dense' },
    { name: 'history', value: 'history', lengths: 'lengths' },
  ],
  outputs: [{ name: 'score', layer: 'scores', dim: 1 }],
};
const DIM = 3;
const directories: string[] = [];
let model: SequenceModel;

beforeAll(async () => {
  model = await writeSequenceModel(31);
  directories.push(model.dir);
});
afterAll(async () => {
  for (const dir of directories) await rm(dir, { recursive: true, force: true });
});

async function bundleOf(fixture: string, onnx: OnnxSpec): Promise<string> {
  const dir = await withOnnx(model.dir, onnxFixture(fixture), onnx);
  directories.push(dir);
  return dir;
}

/** Sequences that leave out ids: padding, and what their table does not have. */
const PADDING: Readonly<Record<string, number>> = { history: 0, late: 2 };

/** A copy of a bundle whose sequences do so. */
async function leavingOut(bundle: string): Promise<string> {
  const spec = await readModelSpec(bundle);
  const nets = spec.nets.map((net) => ({
    ...net,
    layers: net.layers.map((layer) => {
      const paddingId = PADDING[layer.name];
      return layer.type !== 'embedding_sequence' || paddingId === undefined
        ? layer
        : { ...layer, paddingId, unseen: { policy: 'skip' as const } };
    }),
  }));
  await writeModelJson(bundle, { ...spec, nets });
  return bundle;
}

/** Every fourth id of theirs is one that no table has. */
const withUnseen = (given: readonly Given[]): Given[] =>
  given.map((each) =>
    each.reader.name in PADDING ? { ...each, bags: each.bags.map((bag) => bag.map((id) => (id % 4 === 3 ? id + 500 : id))) } : each,
  );

/** Of the ids that are not cut off; in a request without unseen ids padding is one as any other. */
const isThere = (reader: Reader, id: number, leavesOut: boolean): boolean =>
  !leavesOut || !(reader.name in PADDING) || (id !== PADDING[reader.name] && id < rowsOfTable(reader));

/** The rows that an item's layer reads. */
function rowsOf(name: string, request: PredictRequest, item: number, leavesOut = false): number[][] {
  const reader = READERS.find((each) => each.name === name) as Reader;
  const { indices, offsets } = request.sparse[name] as { indices: ArrayLike<unknown>; offsets: readonly number[] };
  const bag = offsets.length === 2 ? 0 : item;
  const kept = keptOf(reader, Array.from(indices, Number).slice(offsets[bag], offsets[bag + 1]));
  const ids = kept.filter((id) => isThere(reader, id, leavesOut));
  return ids.map((id) => [...(model.tables[reader.table] as Float32Array).subarray(id * DIM, (id + 1) * DIM)]);
}

/** What sequences.onnx works out, in float64. */
function scoresOf(request: PredictRequest, item: number, leavesOut: boolean): number[] {
  const [history, late, clicks, largest] = ['history', 'late', 'clicks', 'largest'].map((name) =>
    rowsOf(name, request, item, leavesOut),
  ) as [...[number[][], number[][], number[][], number[][]]];
  const of = (rows: number[][], value: (column: number[]) => number): number[] =>
    Array.from({ length: DIM }, (_, d) => value(rows.map((row) => row[d] as number)));
  const sum = (terms: readonly number[]): number => terms.reduce((total, term) => total + term, 0);
  const mean = of(history, (column) => sum(column) / Math.max(1, column.length));
  const query = of(largest, (column) => (column.length === 0 ? 0 : Math.max(...column)));
  const powers = late.map((row) => Math.exp(sum(row.map((value, d) => value * (query[d] as number)))));
  const attended = of(late, (column) => sum(column.map((value, p) => (value * (powers[p] as number)) / sum(powers))));
  const dense = (request.dense['dense'] as readonly number[])[item] as number;
  const clicked = of(clicks, (column) => dense + sum(column.map((value, p) => value * 2 ** p)));
  return [...mean, ...attended, ...clicked];
}

async function expectReference(predictor: Predictor, seed: number, leavesOut = false): Promise<void> {
  for (const { items, given } of fc.sample(sequenceRequests, { seed, numRuns: 40 })) {
    const request = requestOf(items, leavesOut ? withUnseen(given) : given);
    const { scores } = await predictor.predict(request);
    const expected = Array.from({ length: items }, (_, item) => scoresOf(request, item, leavesOut)).flat();
    expect(scores.length).toBe(expected.length);
    for (const [at, score] of scores.entries())
      expect(Math.abs(score - (expected[at] as number))).toBeLessThan(1e-5 * Math.max(1, Math.abs(expected[at] as number)));
  }
}

const fails = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => 'succeeds',
    (error: unknown) => error,
  );

describe.skipIf(onnxRuntimeDirectory() === null)(`an ONNX model that reads sequences (${NEEDS_RUNTIME})`, () => {
  test('has the scores of the float64 reference, local and on shards, whole tables and parts', async () => {
    const bundle = await bundleOf('sequences.onnx', SEQUENCES);
    const { spec } = await openModel(bundle);
    const whole = capacityPlan(spec, 2);
    const names = whole.shards.map(({ name }) => name);
    const split = { ...whole, tables: whole.tables.map(({ table, parts }, t) => ({ table, parts: t === 1 ? parts : names })) };
    const local = await openLocal(bundle, { deadlineMs: 10_000 });
    await expectReference(local, 1);
    await local.close();
    for (const plan of [whole, split]) {
      const out = await mkdtemp(join(tmpdir(), 'terabag-test-'));
      directories.push(out);
      await publish(plan, bundle, out);
      const cluster = await launchCluster(plan, { bundle: out, ephemeralPorts: true, logLevel: 'error' });
      for (const mode of [{}, { rpc: 'paper' as const, batchItems: 2, dedup: true }]) {
        const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle: out, ...mode });
        await expectReference(predictor, 2);
        await predictor.close();
      }
      await cluster.stop();
    }
  });

  test('has sequences without padding and without ids that their table does not have, local and on shards', async () => {
    const bundle = await leavingOut(await bundleOf('sequences.onnx', SEQUENCES));
    const local = await openLocal(bundle, { deadlineMs: 10_000 });
    await expectReference(local, 3, true);
    await local.close();
    const { spec } = await openModel(bundle);
    const cluster = await launchCluster(capacityPlan(spec, 2), { bundle, ephemeralPorts: true, logLevel: 'error' });
    const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle });
    await expectReference(predictor, 4, true);
    await predictor.close();
    await cluster.stop();
  });

  test("a user's sequence is itself where the input has one row", async () => {
    const predictor = await openLocal(await bundleOf('user-sequence.onnx', USER), { deadlineMs: 10_000 });
    const none = { indices: [], offsets: [0, 0] };
    const request = (offsets: number[]): PredictRequest => ({
      items: 2,
      dense: { dense: [0.5, 1] },
      sparse: {
        ...{ largest: none, first: none, weighted: { ...none, weights: [] }, clicks: none, late: none },
        history: { indices: [4, 0, 9], offsets },
      },
    });
    const total = rowsOf('history', request([0, 3]), 0)
      .flat()
      .reduce((sum, value) => sum + value, 0);
    expect([...(await predictor.predict(request([0, 3]))).scores]).toEqual([0.5 + 3 * total, 1 + 3 * total]);
    expect(await fails(predictor.predict(request([0, 1, 3])))).toMatchObject({ code: 'invalid_argument', details: { field: 'history' } });
    await predictor.close();
  });
});
