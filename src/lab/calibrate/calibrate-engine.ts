import { type NativeLayer, native } from '../../engine/native.js';
import { SEGMENT_FIELDS } from '../../engine/sparse-batch.js';
import { ROW_FORMATS, type RowFormat, rowBytes } from '../../model/formats.js';
import { NO_ATTRIBUTES } from '../../model/ops.js';
import type { Costs } from '../../plan/predict/costs.js';
import { bytesOf } from '../../predictor/scratch.js';
import { SeededNumbers } from '../generate/synthetic-values.js';

/** A file whose bytes are taken as rows of any format. */
export interface RowsFile {
  readonly path: string;
  readonly byteOffset: number;
  readonly bytes: number;
  /** Ids of one round. The rows of enough ids are more bytes than caches hold, so that the next round finds none of them there. */
  readonly idsPerRound: number;
}

/** What it takes to read weights shows in whole requests: how much of them caches keep depends on what else goes on. */
export type EngineCosts = Pick<Costs, 'lookups' | 'cacheBytes' | 'pool'> & { readonly dense: Omit<Costs['dense'], 'nsPerWeight'> };

const DIMS = [16, 64, 128] as const;
const IN_CACHE_BYTES = 256 * 1024;
const CACHE_SIZES_MIB = [1, 2, 4, 8, 16, 32, 64];
const ROUNDS = 9;
/** Bags of one call whose lookups are to count, and nothing beside them. */
const LONG_BAGS: BagSizes = { segments: 1, bags: 64, bagSize: 32 };
const WEIGHTS_SEED = 3;
const IDS_SEED = 5;
/** More weights than the caches of a core hold, as models have that are worth sharding; of smaller ones reading costs next to nothing. */
const LAYER_DIMS = [4096, 1024, 1024, 256] as const;
const MANY_ITEMS = 128;

/** Measures lookups in every row format, bags, segments and dense layers, each alone on this thread. onStep is told of STEPS_OF_ENGINE steps. */
export async function calibrateEngine(file: RowsFile, onStep: () => void): Promise<EngineCosts> {
  const lookups: Costs['lookups'] = [];
  for (const format of ROW_FORMATS) {
    for (const dim of DIMS) {
      const ns = await lookupNs(file, { format, dim, bytes: file.bytes });
      const inCacheNs = Math.min(ns, await lookupNs(file, { format, dim, bytes: IN_CACHE_BYTES }));
      lookups.push({ format, dim, ns, inCacheNs });
      onStep();
    }
  }
  return { lookups, cacheBytes: await cacheBytes(file), pool: await poolCosts(file), dense: denseCosts() };
}

export const STEPS_OF_ENGINE = ROW_FORMATS.length * DIMS.length;

interface Rows {
  readonly format: RowFormat;
  readonly dim: number;
  /** Random rows out of so many bytes. */
  readonly bytes: number;
}

interface BagSizes {
  readonly segments: number;
  readonly bags: number;
  readonly bagSize: number;
}

async function lookupNs(file: RowsFile, rows: Rows): Promise<number> {
  return (await callNs(file, rows, LONG_BAGS)) / (LONG_BAGS.bags * LONG_BAGS.bagSize);
}

/** The most bytes of rows, of those tried, whose lookups take less than halfway from a cache to memory. */
async function cacheBytes(file: RowsFile): Promise<number> {
  const rows = { format: 'fp32', dim: 64 } as const;
  const fast = await lookupNs(file, { ...rows, bytes: IN_CACHE_BYTES });
  const slow = await lookupNs(file, { ...rows, bytes: file.bytes });
  let held = IN_CACHE_BYTES;
  for (const bytes of CACHE_SIZES_MIB.map((mib) => mib * 2 ** 20).filter((bytes) => bytes < file.bytes)) {
    if ((await lookupNs(file, { ...rows, bytes })) < (fast + slow) / 2) held = bytes;
  }
  return held;
}

/** The same lookups in more bags, and the same bags in more segments. */
async function poolCosts(file: RowsFile): Promise<Costs['pool']> {
  const rows = { format: 'fp32', dim: 16, bytes: IN_CACHE_BYTES } as const;
  const few = await callNs(file, rows, { segments: 1, bags: 32, bagSize: 32 });
  const many = await callNs(file, rows, { segments: 1, bags: 1024, bagSize: 1 });
  const split = await callNs(file, rows, { segments: 64, bags: 16, bagSize: 1 });
  return { nsPerBag: Math.max(0, many - few) / (1024 - 32), nsPerSegment: Math.max(0, split - many) / 63 };
}

/** ns of one call of the engine that pools random rows; the fastest of some rounds. */
async function callNs(file: RowsFile, { format, dim, bytes }: Rows, sizes: BagSizes): Promise<number> {
  const rows = Math.floor(bytes / rowBytes(format, dim));
  const tables = Array.from({ length: sizes.segments }, (_, table) => ({
    ...{ table, part: 0, parts: 1, path: file.path, byteOffset: file.byteOffset, rows, dim, format, firstRow: 0, rowStep: 1 },
  }));
  const engine = new native.SparseEngine(tables, 'populate');
  try {
    await engine.fill();
    await engine.tunePrefetch();
    const idsPerCall = sizes.segments * sizes.bags * sizes.bagSize;
    const { segments, offsets } = layout(sizes);
    const numbers = new SeededNumbers(IDS_SEED);
    const ids = Int32Array.from({ length: file.idsPerRound }, () => Math.floor(numbers.uniform() * rows));
    const calls = Array.from({ length: Math.floor(file.idsPerRound / idsPerCall) }, (_, call) =>
      bytesOf(ids.subarray(call * idsPerCall, (call + 1) * idsPerCall)),
    );
    const out = new Float32Array(sizes.segments * sizes.bags * dim);
    return (
      fastestNs(() => {
        for (const indices of calls) engine.poolSync(segments, 4, indices, offsets, null, out);
      }) / calls.length
    );
  } finally {
    engine.close();
  }
}

function layout({ segments, bags, bagSize }: BagSizes): { segments: Uint8Array; offsets: Uint8Array } {
  const fields = new Uint32Array(segments * SEGMENT_FIELDS);
  for (let table = 0; table < segments; table++) fields.set([table, 0, 1, bags, 0], table * SEGMENT_FIELDS);
  return { segments: bytesOf(fields), offsets: bytesOf(Uint32Array.from({ length: segments * bags + 1 }, (_, bag) => bag * bagSize)) };
}

/** Read between two runs, so that weights come from memory as they do between requests that look rows up. */
const EVICTED_FLOATS = 2 ** 24;
const CACHE_LINE_FLOATS = 16;
const VECTORS = 64;
const VECTOR_DIM = 64;
const FEW_ITEMS = 16;

/** One item reads every weight for one multiply-add; what more items take on top is multiplying alone. */
function denseCosts(): EngineCosts['dense'] {
  const numbers = new SeededNumbers(WEIGHTS_SEED);
  const layers = LAYER_DIMS.slice(1).map((dim, layer) => {
    const inputDim = LAYER_DIMS[layer] as number;
    const weight = new Float32Array(dim * inputDim);
    numbers.fill(weight, Math.sqrt(3 / inputDim));
    return { ...FC, inputs: [layer], dim, tensors: [weight, new Float32Array(dim)] };
  });
  const macs = LAYER_DIMS.slice(1).reduce<number>((sum, dim, layer) => sum + dim * (LAYER_DIMS[layer] as number), 0);
  const [one, many] = [runNs([LAYER_DIMS[0]], layers, 1) / macs, runNs([LAYER_DIMS[0]], layers, MANY_ITEMS) / macs];
  const nsPerMac = (many - one) / (MANY_ITEMS - 1);
  const pairDim = (VECTORS * (VECTORS - 1)) / 2;
  const inputs = Array.from({ length: VECTORS }, (_, vector) => vector);
  const interaction = { ...FC, op: 'dot_interaction' as const, inputs, dim: VECTOR_DIM + pairDim };
  const nsPerPairMac =
    runNs(
      inputs.map(() => VECTOR_DIM),
      [interaction],
      FEW_ITEMS,
    ) /
    (FEW_ITEMS * pairDim * VECTOR_DIM);
  return { nsPerMac, nsPerPairMac };
}

const FC = { ...NO_ATTRIBUTES, op: 'fc', stage: 1 } as const;

/** ns of one run of the last layer's value, with cold caches. */
function runNs(inputDims: readonly number[], layers: readonly NativeLayer[], items: number): number {
  const net = new native.DenseNet(inputDims, inputDims.length, layers, inputDims.length + layers.length - 1);
  const workspace = net.createWorkspace();
  const numbers = new SeededNumbers(WEIGHTS_SEED);
  const dense = new Float32Array(items * inputDims.reduce((sum, dim) => sum + dim, 0));
  numbers.fill(dense, 1);
  const perItem = new Uint8Array(inputDims.length).fill(1);
  const output = new Float32Array(items * (layers.at(-1)?.dim ?? 0));
  const evicting = new Float32Array(EVICTED_FLOATS);
  let kept = 0;
  return fastestNs(
    () => net.runSync(workspace, 1, items, perItem, dense, new Float32Array(0), null, output),
    () => {
      for (let at = 0; at < evicting.length; at += CACHE_LINE_FLOATS) kept += evicting[at] as number;
      evicting[0] = kept;
    },
  );
}

/** The time of the fastest call, after one that warms up: one thread works alone, and whatever else runs here only lengthens it. */
function fastestNs(call: () => void, before: () => void = () => undefined): number {
  const samples = Array.from({ length: ROUNDS + 1 }, () => {
    before();
    const startedAt = process.hrtime.bigint();
    call();
    return Number(process.hrtime.bigint() - startedAt);
  });
  return Math.min(...samples.slice(1));
}
