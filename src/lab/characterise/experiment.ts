import { freemem } from 'node:os';
import { join } from 'node:path';
import { readMemoryLimits } from '../../engine/memory-limits.js';
import type { Residency } from '../../engine/residency.js';
import type { RowFormat } from '../../model/formats.js';
import type { ModelSpec } from '../../model/spec.js';
import type { Profile } from '../../plan/profile/profile.js';
import type { PredictRequest } from '../../predictor/predictor.js';

/** Turns of each setup; setups alternate. */
export interface Rounds {
  /** Rounds of the strategies, whose differences are small. */
  readonly strategies: number;
  readonly openLoop: number;
  readonly others: number;
}

/** How long and how often things are measured: one row per kind of run, so that a quick one differs in numbers alone. */
export interface Scale {
  /** Numbers of shards that every strategy is planned for. */
  readonly shards: readonly number[];
  readonly rounds: Rounds;
  /** Duration of one turn, by the serial latency of all tables in one process: the number of requests of a turn follows, and is the same for all. */
  readonly turnMs: number;
  readonly openLoopTurnMs: number;
  readonly warmUpMs: number;
  /** Items per batch of the sweep; whole requests come last by themselves. */
  readonly batchItems: readonly number[];
  readonly packedFormats: readonly RowFormat[];
  /** Most bytes of tables: packing more would take too long. */
  readonly mostPackedBytes: number;
  /** Cores of a slower host. */
  readonly shardCpuLimits: readonly number[];
  readonly networks: readonly { readonly delayMs: number; readonly loss: number }[];
  /** Duration of each rate that the search for the highest tries. */
  readonly probeMs: number;
  readonly probeRequests: number;
  /** Rates this close are not told apart. */
  readonly qpsTolerance: number;
  /** Batch sizes within this ratio are not told apart. */
  readonly closestBatches: number;
}

export const FULL: Scale = {
  shards: [2, 4, 8],
  rounds: { strategies: 5, openLoop: 3, others: 3 },
  turnMs: 1500,
  openLoopTurnMs: 3500,
  warmUpMs: 300,
  batchItems: [16, 64, 256],
  packedFormats: ['int8', 'int4'],
  mostPackedBytes: Number.POSITIVE_INFINITY,
  shardCpuLimits: [0.5, 0.25],
  networks: [
    { delayMs: 0.5, loss: 0 },
    { delayMs: 2, loss: 0 },
    { delayMs: 0.5, loss: 0.01 },
  ],
  probeMs: 2500,
  probeRequests: 150,
  qpsTolerance: 0.15,
  closestBatches: 1.3,
};

export const QUICK: Scale = {
  shards: [2, 4],
  rounds: { strategies: 2, openLoop: 1, others: 1 },
  turnMs: 200,
  openLoopTurnMs: 300,
  warmUpMs: 50,
  batchItems: [32],
  packedFormats: ['int8'],
  mostPackedBytes: 1e9,
  shardCpuLimits: [0.5],
  networks: [{ delayMs: 1, loss: 0 }],
  probeMs: 300,
  probeRequests: 20,
  qpsTolerance: 0.6,
  closestBatches: 2,
};

/** What all experiments work on. */
export interface Experiment {
  readonly bundle: string;
  readonly spec: ModelSpec;
  /** Sent in this order, from the first on in every turn, so that all setups answer the same ones. */
  readonly requests: readonly PredictRequest[];
  readonly profile: Profile;
  readonly scale: Scale;
  /** Mean latency of a request with all tables in one process, as a first look had it. */
  readonly serialMs: number;
  readonly qps: number;
  readonly p99Ms: number;
  readonly seed: number;
  readonly residency: Residency;
  /** Directory of the results: packed bundles are made in it. */
  readonly dir: string;
  readonly mostShardsOpen: number;
  readonly signal: AbortSignal;
  readonly onWarning: (message: string) => void;
}

/** A shard's process, without the table files that it shares with others. */
const SHARD_PROCESS_BYTES = 100e6;
const OF_FREE_MEMORY = 0.5;
/** The most shards of one plan. */
const FEWEST_OPEN = 8;

/** How many shard processes may be open at once. */
export async function mostShardsOpen(): Promise<number> {
  const available = (await readMemoryLimits())?.availableBytes ?? freemem();
  return Math.max(FEWEST_OPEN, Math.floor((available * OF_FREE_MEMORY) / SHARD_PROCESS_BYTES));
}

/** The bundle of a row format, within the directory of the results. */
export const packedBundle = (dir: string, format: RowFormat): string => join(dir, `bundle-${format}`);
