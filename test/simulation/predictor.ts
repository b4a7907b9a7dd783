import type { DensePart } from '../../src/engine/dense-part.js';
import type { ResolvedBag, ResolvedModel } from '../../src/model/graph.js';
import type { Plan } from '../../src/plan/file/plan.js';
import { Pipeline, type PipelineOptions } from '../../src/predictor/pipeline.js';
import type { BagsInput, Prediction, PredictRequest } from '../../src/predictor/predictor.js';
import { roundOfPlan } from '../../src/predictor/rounds.js';
import { PLAIN_BAG } from '../reference/plain-bag.js';
import type { SimulatedProcess } from './process.js';
import type { SeededRandom } from './random.js';
import { DIM, rowValue } from './reference.js';
import type { Violations } from './violations.js';

/** Rows of each table: those that an int32 can name. */
const ROWS = 2 ** 31 - 1;
/** Of shards, a request's number is the first id: two tables lead, one on each of two shards, and the third is split between both. */
const TABLES = ['t0', 't1', 't2'] as const;

export interface PredictorSettings {
  readonly onShardFailure: 'error' | 'default-embedding';
  readonly maxInFlight: number;
  /** Of the dense layers, ms; 0: they run in the callback. */
  readonly layersMs: number;
}

export interface PredictorOptions extends PredictorSettings {
  readonly shards: PipelineOptions['shards'];
  readonly process: SimulatedProcess;
  readonly random: SeededRandom;
  readonly violations: Violations;
}

const MODEL = {
  dense: [{ name: 'dense', dim: 1 }],
  bags: TABLES.map((tableName, table): ResolvedBag => ({ ...PLAIN_BAG, name: `bag-${table}`, table, tableName, dim: DIM, rows: ROWS })),
  layers: [],
  output: 0,
  outputDim: 1,
} as const satisfies ResolvedModel;

/** Which shards hold each table, or parts of it. */
const placesOf = (shards: number): readonly (readonly string[])[] =>
  shards === 1 ? TABLES.map(() => ['shard-0']) : [['shard-0'], ['shard-1'], ['shard-1', 'shard-0']];

export function pipelineOf({ shards, process, random, violations, onShardFailure, maxInFlight, layersMs }: PredictorOptions): Pipeline {
  const plan = {
    shards: shards.map((_, shard) => ({ name: `shard-${shard}`, endpoints: [] })),
    tables: placesOf(shards.length).map((parts, table) => ({ table: TABLES[table], parts })),
  } as unknown as Plan;
  const net = new SimulatedNet(process, random, violations, layersMs);
  const rounds = [roundOfPlan(plan, MODEL)];
  return new Pipeline({
    model: MODEL,
    modelHash: 'simulated',
    net,
    rounds,
    shards,
    engine: null,
    onMain: false,
    onShardFailure,
    admission: { maxInFlight, clock: process },
  });
}

/** Sums of what it reads, with weights that tell places apart. On a thread, it reads its input when it ends. */
class SimulatedNet implements DensePart {
  readonly lastStage = 1;
  readonly sharesInputs = false;

  constructor(
    private readonly process: SimulatedProcess,
    private readonly random: SeededRandom,
    private readonly violations: Violations,
    private readonly ms: number,
  ) {}

  createWorkspace(): object {
    return {};
  }

  run(...given: Parameters<DensePart['run']>): Promise<void> | undefined {
    const [, , items, perItem, dense, pooled, , output] = given;
    const layers = (): void => {
      if (pooled !== null && output !== null) addUp(items, perItem, dense, pooled, output);
    };
    if (this.ms === 0) {
      layers();
      return undefined;
    }
    const [before, own] = [dense.slice(), pooled?.slice()];
    return new Promise((resolve) => {
      this.process.at(this.process.time + this.random.exponential(this.ms), 'sockets', () => {
        const intact = same(before, dense) && (own === undefined || same(own, pooled as Float32Array));
        this.violations.hold('lent-twice', intact, () => 'memory of a request changes while the dense layers read it');
        layers();
        resolve();
      });
    });
  }

  async close(): Promise<void> {}
}

const same = (one: Float32Array, other: Float32Array): boolean => one.every((value, at) => value === other[at]);

function addUp(items: number, perItem: Uint8Array, dense: Float32Array, pooled: Float32Array, output: Float32Array): void {
  const denseRows = perItem[0] === 1 ? items : 1;
  for (let item = 0; item < items; item++) {
    let score = dense[item % denseRows] as number;
    let start = 0;
    for (let bag = 0; bag < TABLES.length; bag++) {
      const rows = perItem[1 + bag] === 1 ? items : 1;
      for (let d = 0; d < DIM; d++) score += (bag + 1) * (d + 1) * (pooled[start + (item % rows) * DIM + d] as number);
      start += rows * DIM;
    }
    output[item] = score;
  }
}

/** One request, and what is right. */
export interface PredictedRequest {
  readonly request: PredictRequest;
  readonly dense: readonly number[];
  /** By table and bag. */
  readonly bags: readonly (readonly (readonly number[])[])[];
  readonly items: number;
}

/** keys: by shard, what the first id sent to it is. */
export function predictedRequest(random: SeededRandom, keys: readonly number[]): PredictedRequest {
  const items = 1 + random.below(3);
  const rows = (): number[] => Array.from({ length: random.below(3) }, () => random.uint32() % ROWS);
  const bags = TABLES.map(() => Array.from({ length: random.chance(0.5) ? 1 : items }, rows));
  keys.forEach((key, table) => {
    const [first] = bags[table] as number[][];
    first?.unshift(key);
  });
  const dense = Array.from({ length: items }, () => random.below(1000));
  const request = {
    items,
    dense: { dense: Float32Array.from(dense) },
    sparse: Object.fromEntries(bags.map((each, table) => [`bag-${table}`, inputOf(each)])),
  };
  return { request, dense, bags, items };
}

function inputOf(bags: readonly (readonly number[])[]): BagsInput {
  const offsets = [0];
  for (const { length } of bags) offsets.push((offsets.at(-1) as number) + length);
  return { indices: Int32Array.from(bags.flat()), offsets };
}

/** Overwrites what predict was given, as callers may once it has returned. */
export function reuse({ request }: PredictedRequest): void {
  for (const values of Object.values(request.dense)) (values as Float32Array).fill(-1);
  for (const { indices } of Object.values(request.sparse)) (indices as Int32Array).fill(-1);
}

/** Whether scores are right, those of missing tables left out. */
export function isRight(given: PredictedRequest, { scores, missingTables = [] }: Prediction, version: number): boolean {
  const missing = new Set(missingTables);
  return given.dense.every((dense, item) => {
    let score = dense;
    TABLES.forEach((name, table) => {
      const bags = given.bags[table] as readonly (readonly number[])[];
      const rows = missing.has(name) ? [] : (bags[item % bags.length] as readonly number[]);
      for (let d = 0; d < DIM; d++) for (const row of rows) score += (table + 1) * (d + 1) * rowValue(version, table, row, d);
    });
    return scores[item] === Math.fround(score);
  });
}
