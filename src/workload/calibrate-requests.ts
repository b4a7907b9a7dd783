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
];

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

const ROWS = 500;
const WARM_UP_MS = 250;
const MEASURED_MS = 900;
const FEWEST_REQUESTS = 100;
const DISTINCT_REQUESTS = 32;
const DEADLINE_MS = 10_000;
const SEED = 11;

/** Runs all trials: tiny models in dir, real shards on this machine, requests one at a time. */
export async function measureTrials(dir: string, onTrial: () => void): Promise<Measured[]> {
  const measured: Measured[] = [];
  // Trials of one model and one plan share the shard processes.
  const groups = new Map<string, Trial[]>();
  for (const trial of TRIALS) {
    const key = [trial.tables, trial.dim, trial.shards, trial.rowWise ?? false].join(' ');
    groups.set(key, [...(groups.get(key) ?? []), trial]);
  }
  const bundles = new Map<string, PlannedModel & { readonly path: string; readonly hash: string }>();
  for (const trials of groups.values()) {
    const [first] = trials as [Trial, ...Trial[]];
    const key = `${first.tables}x${first.dim}`;
    const bundle = bundles.get(key) ?? (await makeBundle(join(dir, key), first));
    bundles.set(key, bundle);
    const plan = planOf(first, bundle);
    const cluster = await launchCluster(plan, { bundle: bundle.path, ephemeralPorts: true });
    try {
      const predictor = await connect(cluster.plan, { bundle: bundle.path });
      try {
        for (const trial of trials) {
          const profile = profileOf(trial, bundle);
          measured.push({ trial, planned: bundle, plan, profile, ...(await measure(predictor, trial)) });
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

async function makeBundle(path: string, trial: Trial): Promise<PlannedModel & { path: string; hash: string }> {
  await writeSyntheticBundle(path, shapeOf(trial));
  const { spec, model, hash } = await openBundle(path, { verify: 'size' });
  return { spec, model: model as ResolvedModel, hash, path };
}

const shapeOf = ({ tables, dim, bagSize }: Trial): ModelShape => ({
  name: 'calibration',
  description: 'tiny tables, whose requests cost what is around lookups',
  seed: SEED,
  denseDim: 1,
  nets: [
    {
      name: 'net',
      bottomMlp: [dim],
      interaction: { type: 'concat' },
      topMlp: TOP_MLPS.get(tables) ?? [1],
      tables: Array.from({ length: tables }, (_, table) => ({
        ...{ name: tableName(table), rows: ROWS, dim, format: 'fp32', side: 'item', pooling: 'sum', weighted: false },
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

function profileOf({ bagSize, items }: Trial, { spec, hash }: { readonly spec: PlannedModel['spec']; readonly hash: string }): Profile {
  return {
    terabagProfile: 1,
    model: { name: spec.name, version: spec.version, hash },
    source: 'spec',
    requests: 0,
    items: { mean: items, p50: items, p99: items },
    tables: spec.tables.map(({ name }) => ({
      ...{ table: name, bags: items, lookups: items * bagSize, uniqueRows: Math.min(ROWS, items * bagSize), hotShare: 0 },
      ...{ userBags: 0, userLookups: 0 },
    })),
  };
}

/** CPU is a mean over all requests: collecting garbage is part of it, and comes once in some hundred requests. */
async function measure(predictor: ShardedPredictor, trial: Trial): Promise<Pick<Measured, 'mainCpuUs' | 'shardCpuUs' | 'p50Us'>> {
  const generator = new RequestGenerator(requestShape(shapeOf(trial)), SEED);
  const requests = Array.from({ length: DISTINCT_REQUESTS }, () => generator.next(trial.items));
  const runFor = async (ms: number): Promise<number[]> => {
    const samples: number[] = [];
    for (const until = performance.now() + ms; samples.length < FEWEST_REQUESTS || performance.now() < until; ) {
      const startedAt = performance.now();
      await predictor.predict(requests[samples.length % DISTINCT_REQUESTS] as PredictRequest, { deadlineMs: DEADLINE_MS });
      samples.push((performance.now() - startedAt) * 1000);
    }
    return samples;
  };
  await runFor(WARM_UP_MS);
  const shardsBefore = await shardCpuUs(predictor);
  const before = process.cpuUsage();
  const samples = await runFor(MEASURED_MS);
  const { user, system } = process.cpuUsage(before);
  const shards = (await shardCpuUs(predictor)) - shardsBefore;
  return { mainCpuUs: (user + system) / samples.length, shardCpuUs: shards / samples.length, p50Us: medianOf(samples) };
}

const medianOf = (samples: readonly number[]): number => [...samples].sort((a, b) => a - b)[samples.length >> 1] as number;

async function shardCpuUs(predictor: ShardedPredictor): Promise<number> {
  return (await predictor.shardStats()).reduce((sum, { cpuUserUs, cpuSystemUs }) => sum + cpuUserUs + cpuSystemUs, 0);
}
