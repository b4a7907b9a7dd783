import { join } from 'node:path';
import { launchCluster } from '../cluster/launch.js';
import { openBundle } from '../model/bundle.js';
import type { ResolvedModel } from '../model/graph.js';
import { MAIN_SHARD, type Plan } from '../plan/plan.js';
import type { Profile } from '../plan/profile.js';
import type { PlannedModel } from '../plan/work.js';
import type { PredictRequest } from '../predictor/predictor.js';
import { connect, type ShardedPredictor } from '../predictor/sharded.js';
import { type ModelShape, tableName } from './model-shape.js';
import { RequestGenerator } from './request-generator.js';
import { requestShape } from './request-shape.js';
import { writeSyntheticBundle } from './synthetic-bundle.js';

/** What requests of a trial are like, and where the tables of its model are. */
export interface Trial {
  readonly tables: number;
  readonly dim: number;
  readonly bagSize: number;
  /** Items, one bag of each table for each; 1 is a request of one bag a table. */
  readonly items: number;
  /** Sparse shards; 0 leaves all tables on main. */
  readonly shards: number;
  /** Every table is split by rows over all shards. */
  readonly rowWise?: boolean;
}

/**
 * Each stresses something else: many tables, many bags, many ids, long vectors; each on main, on one shard and on some. All have dense layers of some
 * million weights: a main shard that computes leaves shards and sockets colder caches than one that does not, and messages cost twice as much.
 */
const REQUESTS = [
  { tables: 2, dim: 64, bagSize: 1, items: 1 },
  { tables: 2, dim: 64, bagSize: 512, items: 4 },
  { tables: 64, dim: 64, bagSize: 1, items: 1 },
  { tables: 64, dim: 64, bagSize: 32, items: 1 },
  { tables: 64, dim: 64, bagSize: 2, items: 16 },
  { tables: 64, dim: 16, bagSize: 2, items: 16 },
  { tables: 8, dim: 64, bagSize: 1, items: 64 },
  { tables: 8, dim: 64, bagSize: 16, items: 64 },
] as const;

export const TRIALS: readonly Trial[] = [
  ...[0, 1, 2, 4, 8].flatMap((shards) => REQUESTS.filter(({ tables }) => tables >= shards).map((request) => ({ ...request, shards }))),
  ...[
    { tables: 8, dim: 64, bagSize: 1, items: 64 },
    { tables: 8, dim: 64, bagSize: 16, items: 64 },
    { tables: 64, dim: 64, bagSize: 32, items: 1 },
  ].map((request) => ({ ...request, shards: 2, rowWise: true })),
  ...[1, 2, 4].map((shards) => ({ tables: 64, dim: 64, bagSize: 2, items: 64, shards })),
];

/** Of one model, on few shards. */
export const QUICK_TRIALS = TRIALS.filter(({ tables, dim, shards }) => tables === 8 && dim === 64 && shards <= 2);

/** Outputs of the top MLP by the number of tables: one to two million weights each, and not more work than the rest. */
const TOP_MLPS = new Map<number, readonly number[]>([
  [2, [2048, 512, 1]],
  [8, [1024, 512, 1]],
  [64, [512, 256, 1]],
]);

/** Per request, us. */
export interface Measured {
  readonly trial: Trial;
  readonly planned: PlannedModel;
  readonly plan: Plan;
  readonly profile: Profile;
  readonly mainCpuUs: number;
  /** Of all shards together. */
  readonly shardCpuUs: number;
  readonly p50Us: number;
}

export interface TrialEffort {
  readonly trials: readonly Trial[];
  /** Of all tables of a model. More than caches hold, as of models that are worth sharding: rows push out of them what processes work with. */
  readonly tablesBytes: number;
  /** Uncounted, when processes are new, and before each trial. */
  readonly startMs: number;
  readonly warmUpMs: number;
  readonly measuredMs: number;
  readonly fewestRequests: number;
}

const FLOAT_BYTES = 4;
/** So many that rows of the first are out of caches when it comes again. */
const DISTINCT_REQUESTS = 128;
const DEADLINE_MS = 10_000;
const SEED = 11;

/** Runs the trials: models in dir, real shards on this machine, requests one at a time. */
export async function measureTrials(dir: string, effort: TrialEffort, onTrial: () => void): Promise<Measured[]> {
  const measured: Measured[] = [];
  // Trials of one model and one plan share the shard processes.
  const groups = new Map<string, Trial[]>();
  for (const trial of effort.trials) {
    const key = [trial.tables, trial.dim, trial.shards, trial.rowWise ?? false].join(' ');
    groups.set(key, [...(groups.get(key) ?? []), trial]);
  }
  const bundles = new Map<string, PlannedModel & { readonly path: string; readonly hash: string }>();
  for (const trials of groups.values()) {
    const [first] = trials as [Trial, ...Trial[]];
    const key = `${first.tables}x${first.dim}`;
    const bundle = bundles.get(key) ?? (await makeBundle(join(dir, key), first, effort.tablesBytes));
    bundles.set(key, bundle);
    const plan = planOf(first, bundle);
    const cluster = await launchCluster(plan, { bundle: bundle.path, ephemeralPorts: true, verify: 'size' });
    try {
      const predictor = await connect(cluster.plan, { bundle: bundle.path, verify: 'size' });
      try {
        await warmUp(predictor, trials, effort);
        for (const trial of trials) {
          const profile = profileOf(trial, bundle);
          measured.push({ trial, planned: bundle, plan, profile, ...(await measure(predictor, trial, effort)) });
          onTrial();
        }
      } finally {
        await predictor.close();
      }
    } finally {
      await cluster.stop();
    }
  }
  return measured;
}

const rowsOf = ({ tables, dim }: Trial, tablesBytes: number): number => Math.floor(tablesBytes / (tables * dim * FLOAT_BYTES));

async function makeBundle(path: string, trial: Trial, tablesBytes: number): Promise<PlannedModel & { path: string; hash: string }> {
  await writeSyntheticBundle(path, shapeOf(trial, rowsOf(trial, tablesBytes)));
  const { spec, model, hash } = await openBundle(path, { verify: 'size' });
  return { spec, model: model as ResolvedModel, hash, path };
}

const shapeOf = ({ tables, dim, bagSize }: Trial, rows: number): ModelShape => ({
  name: 'calibration',
  description: 'requests that each stress something else',
  seed: SEED,
  denseDim: 1,
  nets: [
    {
      name: 'net',
      bottomMlp: [dim],
      interaction: { type: 'concat' },
      topMlp: TOP_MLPS.get(tables) ?? [1],
      tables: Array.from({ length: tables }, (_, table) => ({
        ...{ name: tableName(table), rows, dim, format: 'fp32', side: 'item', pooling: 'sum', weighted: false },
        ...{ poolingFactor: bagSize, bagSizes: 'fixed', reuse: { type: 'zipf', exponent: 0 } },
      })),
    },
  ],
});

function planOf({ shards, rowWise = false }: Trial, { spec, hash }: { readonly spec: PlannedModel['spec']; readonly hash: string }): Plan {
  const names = Array.from({ length: shards }, (_, shard) => `shard-${shard}`);
  return {
    terabagPlan: 1,
    strategy: 'calibration',
    model: { name: spec.name, version: spec.version, hash },
    shards: names.map((name) => ({ name, endpoints: [`ipc://${name}`] })),
    tables: spec.tables.map(({ name }, table) => ({
      table: name,
      parts: rowWise ? names : [names[table % shards] ?? MAIN_SHARD],
    })),
  };
}

function profileOf({ items, bagSize }: Trial, { spec, hash }: { readonly spec: PlannedModel['spec']; readonly hash: string }): Profile {
  const lookups = items * bagSize;
  return {
    terabagProfile: 1,
    model: { name: spec.name, version: spec.version, hash },
    source: 'spec',
    requests: 0,
    items: { mean: items, p50: items, p99: items },
    tables: spec.tables.map(({ name, rows }) => ({
      ...{ table: name, bags: items, lookups, uniqueRows: Math.min(rows, lookups), hotShare: 0, userBags: 0, userLookups: 0 },
    })),
  };
}

/**
 * Requests of the trial with the most bags. New processes interpret what they compile later, and V8 collects garbage rarely at first: of a main shard
 * that receives 200 KiB a request, CPU rises by half within the first 300 requests.
 */
async function warmUp(predictor: ShardedPredictor, trials: readonly Trial[], { tablesBytes, startMs }: TrialEffort): Promise<void> {
  const trial = trials.reduce((most, other) => (other.tables * other.items > most.tables * most.items ? other : most));
  const request = new RequestGenerator(requestShape(shapeOf(trial, rowsOf(trial, tablesBytes))), SEED).next(trial.items);
  for (const until = performance.now() + startMs; performance.now() < until; )
    await predictor.predict(request, { deadlineMs: DEADLINE_MS });
}

/** CPU is a mean over all requests: collecting garbage is part of it, and comes once in some hundred requests. */
async function measure(
  predictor: ShardedPredictor,
  trial: Trial,
  { tablesBytes, warmUpMs, measuredMs, fewestRequests }: TrialEffort,
): Promise<Pick<Measured, 'mainCpuUs' | 'shardCpuUs' | 'p50Us'>> {
  const generator = new RequestGenerator(requestShape(shapeOf(trial, rowsOf(trial, tablesBytes))), SEED);
  const requests = Array.from({ length: DISTINCT_REQUESTS }, () => generator.next(trial.items));
  const runFor = async (ms: number): Promise<number[]> => {
    const samples: number[] = [];
    for (const until = performance.now() + ms; samples.length < fewestRequests || performance.now() < until; ) {
      const startedAt = performance.now();
      await predictor.predict(requests[samples.length % DISTINCT_REQUESTS] as PredictRequest, { deadlineMs: DEADLINE_MS });
      samples.push((performance.now() - startedAt) * 1000);
    }
    return samples;
  };
  await runFor(warmUpMs);
  const shardsBefore = await shardCpuUs(predictor);
  const before = process.cpuUsage();
  const samples = await runFor(measuredMs);
  const { user, system } = process.cpuUsage(before);
  const shards = (await shardCpuUs(predictor)) - shardsBefore;
  return { mainCpuUs: (user + system) / samples.length, shardCpuUs: shards / samples.length, p50Us: medianOf(samples) };
}

const medianOf = (samples: readonly number[]): number => [...samples].sort((a, b) => a - b)[samples.length >> 1] as number;

async function shardCpuUs(predictor: ShardedPredictor): Promise<number> {
  return (await predictor.shardStats()).reduce((sum, { cpuUserUs, cpuSystemUs }) => sum + cpuUserUs + cpuSystemUs, 0);
}
