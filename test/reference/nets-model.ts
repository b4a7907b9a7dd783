import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { writeModelJson } from '../../src/model/bundle.js';
import { type ModelSpec, modelSchema } from '../../src/model/spec.js';
import type { BagsInput, PredictRequest } from '../../src/predictor/predictor.js';
import { writeSafetensors } from '../../src/tables/safetensors.js';
import { random } from './small-model.js';

/** Nets in order, each with tables of its own, a concat and a fully connected layer; from the second on a net reads what the one before gives. */
export interface NetsShape {
  readonly seed: number;
  readonly nets: number;
  readonly tablesPerNet: number;
  readonly rows: number;
  readonly dim: number;
  /** Outputs of each fully connected layer but the last, which gives one score. */
  readonly hidden: number;
}

export interface NetsModel {
  readonly dir: string;
  readonly shape: NetsShape;
  readonly spec: ModelSpec;
  readonly tables: ReadonlyMap<string, Float32Array>;
  readonly weights: ReadonlyMap<string, { shape: number[]; data: Float32Array }>;
}

const USER_DIM = 4;
const ITEM_DIM = 3;

/** Bags of a net, in the order of the concat: those of even number are meant for the user. The last net reads the first table again. */
export function bagsOf({ nets, tablesPerNet }: NetsShape, net: number) {
  const own = Array.from({ length: tablesPerNet }, (_, t) => ({ name: `n${net}_b${t}`, table: `n${net}_t${t}`, number: t }));
  const again = nets > 1 && net === nets - 1 ? [{ name: 'again', table: 'n0_t0', number: 0 }] : [];
  return [...own, ...again].map((bag) => ({
    ...bag,
    pooling: bag.number % 4 === 1 ? ('mean' as const) : ('sum' as const),
    weighted: bag.number % 3 === 2,
    side: bag.number % 2 === 0 ? ('user' as const) : ('item' as const),
  }));
}

export const allBags = (shape: NetsShape) => Array.from({ length: shape.nets }, (_, net) => bagsOf(shape, net)).flat();

/** What a net's concat reads: the user's bags first, as their sums are computed once. */
function concatInputs(shape: NetsShape, net: number): string[] {
  const bags = bagsOf(shape, net);
  const of = (wanted: 'user' | 'item') => bags.filter(({ side }) => side === wanted).map(({ name }) => name);
  return [...of('user'), ...(net === 0 ? ['bottom'] : ['user', `n${net - 1}_fc`]), ...of('item')];
}

function layerDims(shape: NetsShape): Record<string, [number, number]> {
  const { nets, dim, hidden } = shape;
  const dims: Record<string, [number, number]> = { bottom_0: [hidden, ITEM_DIM], bottom: [hidden, hidden] };
  for (let net = 0; net < nets; net++) {
    const inputs = bagsOf(shape, net).length * dim + (net === 0 ? hidden : USER_DIM + hidden);
    dims[`n${net}_fc`] = [net === nets - 1 ? 1 : hidden, inputs];
  }
  return dims;
}

/** Writes a bundle into dir, which must not hold one. */
export async function writeNetsModel(dir: string, shape: NetsShape): Promise<NetsModel> {
  const { nets, rows, dim } = shape;
  await mkdir(join(dir, 'tables'), { recursive: true });
  const next = random(shape.seed);
  const values = (length: number, scale: number): Float32Array => Float32Array.from({ length }, () => (next() - 0.5) * scale);
  const bytes = (data: Float32Array): Uint8Array => new Uint8Array(data.buffer);
  const files: Record<string, unknown> = {};
  const tables = new Map<string, Float32Array>();
  for (const table of new Set(allBags(shape).map((bag) => bag.table))) {
    const data = values(rows * dim, 1);
    tables.set(table, data);
    const file = `tables/${table}.safetensors`;
    files[file] = await writeSafetensors(join(dir, file), [{ name: 'weight', dtype: 'F32', shape: [rows, dim], data: bytes(data) }]);
  }
  const dims = layerDims(shape);
  const weights = new Map<string, { shape: number[]; data: Float32Array }>();
  for (const [name, [outputs, inputs]] of Object.entries(dims)) {
    weights.set(`${name}.weight`, { shape: [outputs, inputs], data: values(outputs * inputs, 2 / Math.sqrt(inputs)) });
    weights.set(`${name}.bias`, { shape: [outputs], data: values(outputs, 0.2) });
  }
  files['dense.safetensors'] = await writeSafetensors(
    join(dir, 'dense.safetensors'),
    [...weights].map(([name, tensor]) => ({ name, dtype: 'F32', shape: tensor.shape, data: bytes(tensor.data) })),
  );
  const fc = (name: string, input: string, activation: string) => ({
    ...{ type: 'fc', name, input, activation },
    ...{ weight: `${name}.weight`, bias: `${name}.bias` },
  });
  const spec = modelSchema.parse({
    terabag: 1,
    name: 'nets',
    version: String(shape.seed),
    dense: [
      { name: 'user', dim: USER_DIM },
      { name: 'item', dim: ITEM_DIM },
    ],
    tables: [...tables.keys()].map((name) => ({ name, rows, dim, format: 'fp32', file: `tables/${name}.safetensors`, tensor: 'weight' })),
    nets: Array.from({ length: nets }, (_, net) => ({
      name: `net_${net}`,
      layers: [
        ...bagsOf(shape, net).map(({ name, table, pooling, weighted }) => ({ type: 'embedding_bag', name, table, pooling, weighted })),
        ...(net === 0 ? [fc('bottom_0', 'item', 'relu'), fc('bottom', 'bottom_0', 'relu')] : []),
        { type: 'concat', name: `n${net}_all`, inputs: concatInputs(shape, net) },
        fc(`n${net}_fc`, `n${net}_all`, net === nets - 1 ? 'sigmoid' : 'relu'),
      ],
    })),
    output: `n${nets - 1}_fc`,
    files,
  });
  await writeModelJson(dir, spec);
  return { dir, shape, spec, tables, weights };
}

export interface RequestOptions {
  /** Mean number of ids of a bag, from minIds (default 0) on, all equally likely; 1 gives exactly one. */
  readonly poolingFactor: number;
  readonly minIds?: number;
  /** Whether a bag is given once; default: as its side says. */
  readonly once?: (bag: string) => boolean;
  /** How many of the bags given per item differ; default all. */
  readonly differentBags?: number;
}

/** A request with ids of all forms that the rows allow. */
export function netsRequest(shape: NetsShape, next: () => number, items: number, options: RequestOptions): PredictRequest {
  const { poolingFactor, minIds = 0, differentBags = items, once } = options;
  const sparse: Record<string, BagsInput> = {};
  for (const { name, side, weighted } of allBags(shape)) {
    const count = (once?.(name) ?? side === 'user') ? 1 : items;
    const size = (): number => (poolingFactor === 1 ? 1 : minIds + Math.floor(next() * (2 * (poolingFactor - minIds) + 1)));
    const different = Array.from({ length: Math.min(count, differentBags) }, () =>
      Array.from({ length: size() }, () => ({ id: Math.floor(next() * shape.rows), weight: Math.fround(next() - 0.5) })),
    );
    const bags = Array.from({ length: count }, (_, bag) => different[bag % different.length] ?? []);
    const offsets = new Uint32Array(count + 1);
    bags.forEach((bag, b) => {
      offsets[b + 1] = (offsets[b] as number) + bag.length;
    });
    sparse[name] = {
      indices: Int32Array.from(bags.flat(), ({ id }) => id),
      offsets,
      ...(weighted && { weights: Float32Array.from(bags.flat(), ({ weight }) => weight) }),
    };
  }
  const floats = (length: number): Float32Array => Float32Array.from({ length }, () => next() - 0.5);
  return { items, dense: { user: floats(USER_DIM), item: floats(items * ITEM_DIM) }, sparse };
}

/** The same request with every user-side bag given once per item. */
export function repeatedBags(request: PredictRequest): PredictRequest {
  const items = request.items ?? 1;
  const repeat = (bags: BagsInput): BagsInput => {
    const length = bags.indices.length;
    if (bags.offsets.length - 1 === items) return bags;
    return {
      indices: Int32Array.from({ length: length * items }, (_, at) => Number(bags.indices[at % length])),
      offsets: Uint32Array.from({ length: items + 1 }, (_, bag) => bag * length),
      ...(bags.weights && { weights: Float32Array.from({ length: length * items }, (_, at) => bags.weights?.[at % length] as number) }),
    };
  };
  return { ...request, sparse: Object.fromEntries(Object.entries(request.sparse).map(([name, bags]) => [name, repeat(bags)])) };
}

/** Scores in float64, one plain loop a layer, sharing no code with src/. */
export function netsScores({ shape, tables, weights }: NetsModel, request: PredictRequest, items: number): number[] {
  const { dim, nets } = shape;
  const pool = (name: string, table: string, mean: boolean, item: number): number[] => {
    const { indices, offsets, weights: given } = request.sparse[name] as BagsInput;
    const bag = offsets.length === 2 ? 0 : item;
    const [from, to] = [offsets[bag] as number, offsets[bag + 1] as number];
    return Array.from({ length: dim }, (_, d) => {
      let sum = 0;
      for (let i = from; i < to; i++) sum += (given?.[i] ?? 1) * (tables.get(table)?.[Number(indices[i]) * dim + d] as number);
      return mean && to > from ? sum / (to - from) : sum;
    });
  };
  const fc = (name: string, x: number[]): number[] => {
    const { shape: [outputs = 0] = [], data } = weights.get(`${name}.weight`) as { shape: number[]; data: Float32Array };
    const bias = weights.get(`${name}.bias`)?.data as Float32Array;
    return Array.from({ length: outputs }, (_, n) =>
      x.reduce((sum, value, k) => sum + value * (data[n * x.length + k] as number), bias[n] as number),
    );
  };
  const relu = (x: number[]): number[] => x.map((value) => Math.max(0, value));
  return Array.from({ length: items }, (_, item) => {
    const values = new Map<string, number[]>();
    values.set('user', [...(request.dense['user'] as Float32Array)]);
    const given = request.dense['item'] as Float32Array;
    values.set('bottom', relu(fc('bottom', relu(fc('bottom_0', [...given.subarray(item * ITEM_DIM, (item + 1) * ITEM_DIM)])))));
    for (let net = 0; net < nets; net++) {
      for (const { name, table, pooling } of bagsOf(shape, net)) values.set(name, pool(name, table, pooling === 'mean', item));
      const sums = fc(
        `n${net}_fc`,
        concatInputs(shape, net).flatMap((name) => values.get(name) as number[]),
      );
      values.set(`n${net}_fc`, net === nets - 1 ? sums.map((sum) => 1 / (1 + Math.exp(-sum))) : relu(sums));
    }
    return values.get(`n${nets - 1}_fc`)?.[0] as number;
  });
}
