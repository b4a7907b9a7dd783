import { rm } from 'node:fs/promises';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DenseNet } from '../../../src/engine/dense-net.js';
import { SparseEngine } from '../../../src/engine/sparse-engine.js';
import { engineTables } from '../../../src/engine/tables.js';
import type { TerabagError } from '../../../src/errors.js';
import { type Bundle, openBundle } from '../../../src/model/bundle.js';
import { inStages, type ResolvedBag, type ResolvedModel } from '../../../src/model/graph.js';
import { MAIN_SHARD, type Plan } from '../../../src/plan/file/plan.js';
import { openLocal } from '../../../src/predictor/local.js';
import { roundsOfNets } from '../../../src/predictor/modes/paper.js';
import { Pipeline, type PoolingShard } from '../../../src/predictor/pipeline.js';
import type { Indices, Predictor } from '../../../src/predictor/predictor.js';
import { type CheckedBags, checkRequest } from '../../../src/predictor/request.js';
import { roundOfPlan } from '../../../src/predictor/rounds.js';
import { Scratch } from '../../../src/predictor/scratch.js';
import { type CutSequences, expandSequence, SequenceCutter } from '../../../src/predictor/sequences.js';
import { PLAIN_BAG } from '../../reference/plain-bag.js';
import { keptOf, READERS, rowsOf, type SequenceModel, sequenceScores, writeSequenceModel } from '../../reference/sequence-model.js';
import { type Given, requestOf, sequenceRequests } from '../../reference/sequence-requests.js';

const SHARDS = ['shard-0', 'shard-1', 'shard-2'];
/** Where the parts of each table are. */
const PLACES: readonly (readonly string[])[][] = [
  [['shard-2'], ['shard-1'], ['shard-0']],
  [['shard-1'], [MAIN_SHARD], ['shard-0']],
  [
    ['shard-1', 'shard-0'],
    ['shard-2', 'shard-1', 'shard-0'],
    ['shard-1', MAIN_SHARD, 'shard-2', 'shard-0'],
  ],
];
const MODES: readonly { readonly batchItems?: number; readonly dedup?: boolean; readonly paper?: boolean }[] = [
  {},
  { dedup: true },
  { paper: true },
  { paper: true, batchItems: 2 },
  { paper: true, batchItems: 1, dedup: true },
];

let files: SequenceModel;
let bundle: Bundle;
let local: Predictor;
let sharded: readonly Pipeline[];
const engines: SparseEngine[] = [];

const shardOf = (engine: SparseEngine | null): PoolingShard => ({
  async pool(batch) {
    const pooled = new Float32Array((engine as SparseEngine).outputLength(batch.segments, batch.offsets));
    await engine?.pool(structuredClone(batch), pooled);
    return { pooled: new Uint8Array(pooled.buffer), message: { release: () => pooled.fill(Number.NaN) } };
  },
});

async function pipelines(parts: readonly (readonly string[])[]): Promise<Pipeline[]> {
  const model = bundle.model as ResolvedModel;
  const plan = {
    terabag: 1,
    model: { name: 'sequences', version: '1', hash: bundle.hash },
    shards: SHARDS.map((name) => ({ name, endpoints: [] })),
    tables: parts.map((each, t) => ({ table: `t${t}`, parts: [...each] })),
  } as unknown as Plan;
  const held = await Promise.all(
    [...SHARDS, MAIN_SHARD].map(async (shard) => {
      const own = engineTables(bundle, (table) =>
        (parts[table] ?? []).flatMap((name, part) => (name === shard ? [{ part, parts: parts[table]?.length ?? 0 }] : [])),
      );
      return own.length === 0 ? null : SparseEngine.open(own);
    }),
  );
  for (const engine of held) if (engine !== null) engines.push(engine);
  return MODES.map(({ paper = false, ...mode }) => {
    const net = new DenseNet(paper ? model : inStages(model, 2), bundle.dense);
    const rounds = paper ? roundsOfNets(plan, model, net.lastStage) : [roundOfPlan(plan, model)];
    const shards = held.slice(0, -1).map(shardOf);
    return new Pipeline({ model, modelHash: bundle.hash, net, rounds, shards, engine: held.at(-1) ?? null, onMain: false, ...mode });
  });
}

beforeAll(async () => {
  files = await writeSequenceModel(5);
  bundle = await openBundle(files.dir);
  local = await openLocal(files.dir, { deadlineMs: 10_000 });
  sharded = (await Promise.all(PLACES.map(pipelines))).flat();
});

afterAll(async () => {
  await local.close();
  for (const engine of engines) engine.close();
  await rm(files.dir, { recursive: true });
});

test('scores are those of slicing, local and sharded, in every mode, over tables that are split or not', async () => {
  await fc.assert(
    fc.asyncProperty(sequenceRequests, async ({ items, given }) => {
      const request = requestOf(items, given);
      const expected = sequenceScores(files, request, items).map((value) => value + 0);
      for (const predictor of [local, ...sharded]) {
        const { scores } = await predictor.predict(request);
        expect([...scores].map((value) => value + 0)).toEqual(expected);
      }
    }),
    { numRuns: 150 },
  );
});

test('a request without items and ids has no scores', async () => {
  const none = { indices: [], offsets: [0, 0] };
  const sparse = Object.fromEntries(
    READERS.map(({ name, pooling }) => [name, pooling === 'weighted_mean' ? { ...none, weights: [] } : none]),
  );
  for (const predictor of [local, ...sharded])
    expect((await predictor.predict({ items: 0, dense: { dense: [1] }, sparse })).scores).toHaveLength(0);
});

test('the first id that its table does not have is told with its place in the request, and ids that are cut off are not looked at', async () => {
  const seen = { refused: 0, passed: 0 };
  const spoiled = fc.tuple(fc.nat(READERS.length - 1), fc.nat(4), fc.nat(7));
  await fc.assert(
    fc.asyncProperty(sequenceRequests, fc.array(spoiled, { minLength: 1, maxLength: 3 }), async ({ items, given }, places) => {
      const broken = given.map(({ reader, bags, form }, at) => ({
        ...{ reader, form },
        bags: bags.map((bag, b) =>
          bag.map((id, i) => (places.some(([r, pb, pi]) => r === at && pb === b && pi === i) ? rowsOf(reader) + i : id)),
        ),
      }));
      const expected = firstBad(broken);
      if (expected === null) seen.passed++;
      else seen.refused++;
      const request = requestOf(items, broken);
      for (const predictor of [local, ...sharded]) {
        const ended = await predictor.predict(request).catch((error: TerabagError) => error);
        if (expected === null) expect(ended).toHaveProperty('scores');
        else expect(ended).toMatchObject({ code: 'index_out_of_range', details: expected });
      }
    }),
    { numRuns: 100 },
  );
  expect(Math.min(...Object.values(seen))).toBeGreaterThan(10);
});

/** By looking at every id that counts, one layer after another. */
function firstBad(given: readonly Given[]): object | null {
  for (const { reader, bags } of given) {
    let start = 0;
    for (const [bag, ids] of bags.entries()) {
      const kept = keptOf(
        reader,
        ids.map((id, i) => ({ id, position: start + i })),
      );
      const bad = kept.find(({ id }) => id >= rowsOf(reader));
      if (bad !== undefined) return { table: `t${reader.table}`, bag, position: bad.position, index: String(bad.id) };
      start += ids.length;
    }
  }
  return null;
}

describe('the ids of a sequence', () => {
  const model: ResolvedModel = {
    dense: [],
    bags: [{ ...PLAIN_BAG, rows: 2 ** 53, maxLength: 8, truncate: 'last' }],
    layers: [],
    output: 0,
    outputDim: 1,
  };
  const asked = (indices: Indices, offsets: readonly number[]) => {
    const scratch = new Scratch();
    const cut = new SequenceCutter(model).cut(checkRequest(model, { dense: {}, sparse: { bag: { indices, offsets } } }, scratch), scratch);
    const ids = cut?.request.bags[0]?.input.indices ?? [];
    return {
      ids: Array.from(ids as ArrayLike<number | bigint>, BigInt),
      vectors: [...(cut?.positions[0]?.vectors ?? [])],
      lengths: [...(cut?.lengths ?? [])],
    };
  };

  test('are asked for once, in the order in which they come, told apart by all their bits', () => {
    const high = 2n ** 40n;
    expect(asked(BigInt64Array.of(7n, high + 7n, 7n, -1n, high + 7n, 2n ** 32n - 1n), [0, 4, 6])).toEqual({
      ids: [7n, high + 7n, -1n, 2n ** 32n - 1n],
      vectors: [0, 1, 0, 2, 1, 3],
      lengths: [4, 2],
    });
    expect(asked([2 ** 40 + 7, 7, String(2 ** 40 + 7), 7n], [0, 4])).toEqual({ ids: [high + 7n, 7n], vectors: [0, 1, 0, 1], lengths: [4] });
  });

  test('are asked for at each position where their rows are in this process, but for those of other forms, and those that are counted', () => {
    const plain = { ...(model.bags[0] as ResolvedBag), rows: 100, maxLength: 3 };
    const cut = (bag: ResolvedBag, indices: Indices, offsets: readonly number[]) => {
      const scratch = new Scratch();
      const request = checkRequest(model, { dense: {}, sparse: { bag: { indices, offsets } } }, scratch);
      const {
        inPlace,
        positions,
        request: asked,
      } = new SequenceCutter({ ...model, bags: [bag] }, { repeated: 'each' }).cut(request, scratch) as CutSequences;
      const { input, places } = asked.bags[0] as CheckedBags;
      return {
        inPlace,
        vectors: positions[0]?.vectors ?? null,
        ids: [...input.indices].map(Number),
        places: [...(places?.positions ?? [])],
      };
    };
    const repeated = Int32Array.of(4, 4, 5, 6, 4, 4);
    expect(cut(plain, repeated, [0, 3, 6])).toEqual({ inPlace: true, vectors: null, ids: [4, 4, 5, 6, 4, 4], places: [0, 1, 2, 3, 4, 5] });
    expect(cut(plain, repeated, [0, 2, 6])).toEqual({ inPlace: false, vectors: null, ids: [4, 4, 6, 4, 4], places: [0, 1, 3, 4, 5] });
    expect(cut({ ...plain, truncate: 'first' }, repeated, [0, 2, 6])).toMatchObject({ ids: [4, 4, 5, 6, 4], places: [0, 1, 2, 3, 4] });
    const once = { inPlace: false, vectors: Uint32Array.of(0, 0, 1, 2, 0, 0), ids: [4, 5, 6] };
    expect(cut(plain, [...repeated], [0, 3, 6])).toMatchObject(once);
    expect(cut({ ...plain, keyed: true }, repeated, [0, 3, 6])).toMatchObject(once);
    expect(cut({ ...plain, rule: { ...plain.rule, policy: 'zero' } }, repeated, [0, 3, 6])).toMatchObject(once);
    expect(cut({ ...plain, leavesOut: true }, repeated, [0, 3, 6])).toMatchObject(once);
  });

  test('are a set, however many there are', () => {
    fc.assert(
      fc.property(fc.array(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), { maxLength: 60 }), fc.nat(5), (ids, repeats) => {
        const given = Array.from({ length: repeats + 1 }, () => ids).flat();
        // Rows of at most eight, of which none is cut off.
        const offsets = Array.from({ length: Math.ceil(given.length / 8) + 1 }, (_, row) => Math.min(8 * row, given.length));
        const found = asked(BigInt64Array.from(given), offsets.length === 1 ? [0, 0] : offsets);
        expect(found.ids).toEqual([...new Set(ids)]);
        expect(found.vectors.map((vector) => found.ids[vector])).toEqual(given);
      }),
    );
  });

  test('make positions whose number is limited, though they are few', () => {
    const long = { ...model, bags: [{ ...(model.bags[0] as ResolvedModel['bags'][number]), dim: 1024, maxLength: 65_535 }] };
    const request = checkRequest(long, { dense: {}, sparse: { bag: { indices: [], offsets: [0, 0, 0, 0, 0, 0] } } }, new Scratch());
    expect(() => new SequenceCutter(long).cut(request, new Scratch())).toThrow(
      expect.objectContaining({ code: 'invalid_argument', message: expect.stringMatching(/at most 2\^28 numbers.*: 335539200, items 5$/) }),
    );
  });
});

test('rows are the positions that were not left out, and zeros behind the last, whatever the memory held', () => {
  const shapes = fc.record({
    dim: fc.integer({ min: 1, max: 4 }),
    lengths: fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 6 }),
    shared: fc.boolean(),
    counted: fc.boolean(),
    seed: fc.integer(),
  });
  fc.assert(
    fc.property(shapes, ({ dim, lengths, shared, counted, seed }) => {
      const maxLength = 5;
      const count = lengths.reduce((sum, length) => sum + length, 0);
      const values = Float32Array.from({ length: 1 + count * dim }, (_, at) => at + 1);
      const vectors = shared ? Uint32Array.from({ length: count }, (_, at) => Math.abs(seed + 7 * at) % count) : null;
      const counts = counted ? Float32Array.from({ length: count }, (_, at) => Math.abs(seed + 3 * at) % 3) : null;
      const written = new Float32Array(2 + lengths.length * maxLength * dim).fill(Number.NaN);
      const left = Uint32Array.from(lengths);
      const bag = { ...PLAIN_BAG, dim, maxLength } as ResolvedBag;
      expandSequence(bag, { vectors, lengths: left }, { values, start: 1, counts }, { values: written, start: 2 });
      let position = 0;
      for (const [row, length] of lengths.entries()) {
        const places = Array.from({ length }, (_, at) => position + at);
        position += length;
        const asked = places.map((at) => vectors?.[at] ?? at).filter((vector) => counts?.[vector] !== 0);
        const rows = asked.flatMap((vector) => [...values.slice(1 + vector * dim, 1 + (vector + 1) * dim)]);
        const start = 2 + row * maxLength * dim;
        expect([...written.slice(start, start + maxLength * dim)]).toEqual([...rows, ...Array(maxLength * dim - rows.length).fill(0)]);
        expect(left[row]).toBe(asked.length);
      }
      expect([written[0], written[1]]).toEqual([Number.NaN, Number.NaN]);
    }),
  );
});
