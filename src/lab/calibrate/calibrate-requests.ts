import { join } from 'node:path';
import { launchCluster } from '../../cluster/launch.js';
import { openBundle } from '../../model/bundle.js';
import type { ResolvedModel } from '../../model/graph.js';
import { MAIN_SHARD, type Plan } from '../../plan/file/plan.js';
import type { PlannedModel } from '../../plan/predict/work.js';
import type { Profile } from '../../plan/profile/profile.js';
import type { PredictRequest } from '../../predictor/predictor.js';
import { connect, type ShardedPredictor } from '../../predictor/sharded.js';
import { type ModelShape, tableName } from '../generate/model-shape.js';
import { RequestGenerator } from '../generate/request-generator.js';
import { requestShape } from '../generate/request-shape.js';
import { writeSyntheticBundle } from '../generate/synthetic-bundle.js';
import { shardCpuUs } from '../load/process-meter.js';

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
 * Each has much of one amount and little of the others, so that the fit can tell their costs apart: bags of short and of long vectors, ids in few
 * bags and in many, the same in few tables and in many. All have dense layers of some million weights: a main shard that computes leaves shards and
 * sockets colder caches than one that does not, and messages cost twice as much.
 */
const REQUESTS = [
  // Next to nothing: what a request and an RPC cost.
  { tables: 8, dim: 64, bagSize: 1, items: 1 },
  // Many ids: sent, and next to nothing received.
  { tables: 8, dim: 16, bagSize: 64, items: 16 },
  // Many bags, short vectors and few tables.
  { tables: 8, dim: 16, bagSize: 1, items: 64 },
  // Long answers of few bags.
  { tables: 8, dim: 256, bagSize: 1, items: 32 },
  // Many tables: once with as little as possible for each, once with many ids, many bags, and long answers.
  { tables: 64, dim: 16, bagSize: 1, items: 1 },
  { tables: 64, dim: 16, bagSize: 32, items: 1 },
  { tables: 64, dim: 16, bagSize: 2, items: 32 },
  { tables: 64, dim: 64, bagSize: 2, items: 16 },
  // Both ways at once.
  { tables: 8, dim: 64, bagSize: 16, items: 64 },
] as const;

export const TRIALS: readonly Trial[] = [
  ...[0, 1, 2, 4, 8].flatMap((shards) => REQUESTS.map((request) => ({ ...request, shards }))),
  ...[
    { tables: 8, dim: 64, bagSize: 1, items: 64 },
    { tables: 8, dim: 64, bagSize: 16, items: 64 },
    { tables: 64, dim: 16, bagSize: 32, items: 1 },
  ].map((request) => ({ ...request, shards: 2, rowWise: true })),
];

/** Trials of one model, on few shards. */
export const QUICK_TRIALS = TRIALS.filter(({ tables, dim, shards }) => tables === 8 && dim === 64 && shards <= 2);

/** Half a million to five million weights, by the number of values that it reads. */
const TOP_MLP = [1024, 512, 1];

/** Per request, us; medians over rounds. */
export interface Measured {
  readonly trial: Trial;
  readonly planned: PlannedModel;
  readonly plan: Plan;
  readonly profile: Profile;
  readonly mainCpuUs: number;
  /** Summed over all shards. */
  readonly shardCpuUs: number;
  readonly p50Us: number;
}

export interface TrialEffort {
  readonly trials: readonly Trial[];
  /** Bytes of all tables of a model. More than caches hold, as of models that are worth sharding: rows push out of them what processes work with. */
  readonly tablesBytes: number;
  /** Uncounted, when processes are new, and before each measurement. */
  readonly startMs: number;
  readonly warmUpMs: number;
  /** Trials that share processes are measured so often, in turns. */
  readonly rounds: number;
  readonly measuredMs: number;
  readonly fewestRequests: number;
}

const FLOAT_BYTES = 4;
/** So many that rows of the first are out of caches when it comes again. */
const DISTINCT_REQUESTS = 128;
const DEADLINE_MS = 10_000;
const SEED = 11;

/** Runs the trials: models in dir, real shards on this machine, requests one at a time. onStep is told of every round of every trial. */
export async function measureTrials(dir: string, effort: TrialEffort, onStep: () => void): Promise<Measured[]> {
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
        const figures = await measureInTurns(predictor, trials, effort, onStep);
        for (const [index, trial] of trials.entries())
          measured.push({ trial, planned: bundle, plan, profile: profileOf(trial, bundle), ...(figures[index] as Figures) });
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
  const { spec, model, hash } = await openBundle(path, { verify: 'later' });
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
      topMlp: TOP_MLP,
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
 * Requests of the trial with the longest answers. New processes interpret what they compile later, and V8 collects garbage rarely at first: of a main
 * shard that receives 200 KiB a request, CPU rises by half within the first 1500 requests, where messages are memory that V8 has to collect.
 */
async function warmUp(predictor: ShardedPredictor, trials: readonly Trial[], { tablesBytes, startMs }: TrialEffort): Promise<void> {
  const answer = ({ tables, dim, items }: Trial): number => tables * dim * items;
  const trial = trials.reduce((most, other) => (answer(other) > answer(most) ? other : most));
  const request = new RequestGenerator(requestShape(shapeOf(trial, rowsOf(trial, tablesBytes))), SEED).next(trial.items);
  for (const until = performance.now() + startMs; performance.now() < until; )
    await predictor.predict(request, { deadlineMs: DEADLINE_MS });
}

type Figures = Pick<Measured, 'mainCpuUs' | 'shardCpuUs' | 'p50Us'>;

async function measureInTurns(
  predictor: ShardedPredictor,
  trials: readonly Trial[],
  effort: TrialEffort,
  onStep: () => void,
): Promise<Figures[]> {
  const samples = trials.map((): Figures[] => []);
  for (let round = 0; round < effort.rounds; round++) {
    for (const [index, trial] of trials.entries()) {
      samples[index]?.push(await measure(predictor, trial, effort));
      onStep();
    }
  }
  return samples.map((rounds) => {
    const median = (key: keyof Figures): number => medianOf(rounds.map((figures) => figures[key]));
    return { mainCpuUs: median('mainCpuUs'), shardCpuUs: median('shardCpuUs'), p50Us: median('p50Us') };
  });
}

/** CPU is a mean over all requests: collecting garbage is part of it, and comes once in some hundred requests. */
async function measure(
  predictor: ShardedPredictor,
  trial: Trial,
  { tablesBytes, warmUpMs, measuredMs, fewestRequests }: TrialEffort,
): Promise<Figures> {
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
