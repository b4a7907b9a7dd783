import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { launchCluster } from '../src/cluster/launch.js';
import { native } from '../src/engine/native.js';
import { calibrate } from '../src/lab/calibrate/calibrate.js';
import { RequestGenerator } from '../src/lab/generate/request-generator.js';
import { requestShape } from '../src/lab/generate/request-shape.js';
import { shapeByName } from '../src/lab/generate/shape-by-name.js';
import { writeSyntheticBundle } from '../src/lab/generate/synthetic-bundle.js';
import { ProcessMeter, shardCpuUs } from '../src/lab/load/process-meter.js';
import { describeMachine, machineLine } from '../src/lab/report/machine.js';
import { quantile } from '../src/lab/report/quantiles.js';
import { type Bundle, openBundle } from '../src/model/bundle.js';
import type { ResolvedModel } from '../src/model/graph.js';
import type { Plan } from '../src/plan/file/plan.js';
import { makePlan, STRATEGIES, type Strategy } from '../src/plan/placement/strategies.js';
import { type Costs, readCosts } from '../src/plan/predict/costs.js';
import { type PlanPrediction, PlanPredictor } from '../src/plan/predict/predict-plan.js';
import type { Profile } from '../src/plan/profile/profile.js';
import { ProfileBuilder } from '../src/plan/profile/profile-builder.js';
import type { PredictRequest } from '../src/predictor/predictor.js';
import { connect, type ShardedPredictor } from '../src/predictor/sharded.js';
import { type CellResult, quartileRange, rankingLine, summaryLine } from './plan-ranking.js';
import { type Line, median, type Suite } from './suite.js';

/** Scaled to about 300 MB of tables each. */
const SHAPES = [
  { name: 'drm1', scale: 0.0015, items: 16 },
  { name: 'drm2', scale: 0.0022, items: 16 },
  { name: 'drm3', scale: 0.0015, items: 64 },
] as const;
const SHARDS = [2, 4, 8];
/** The first requests are not counted: new processes interpret what they compile later, and seldom collect garbage. */
const FULL = { scale: 1, startRequests: 400, requestsPerRound: 200 };
const QUICK = { scale: 0.1, startRequests: 20, requestsPerRound: 20 };
const PROFILED_REQUESTS = 300;
/** Uncounted requests before each round, whose own were made just before. */
const WARM_UP = 20;
const DEADLINE_MS = 10_000;
/** A file of terabag calibrate; without it the bench calibrates first. */
const COSTS_FILE = process.env['TERABAG_COSTS'];

export const planSuite: Suite = {
  name: 'plan',
  description: `what plans cost, predicted and measured: ${SHAPES.map(({ name }) => name).join(', ')}, every fixed strategy, ${SHARDS.join(', ')} shards here`,
  async *run({ quick, dir, wanted, rounds }) {
    const costs =
      COSTS_FILE === undefined ? (await calibrate({ machine: machineLine(describeMachine()) })).costs : await readCosts(COSTS_FILE);
    console.log(`costs: ${costs.machine}`);
    const all: CellResult[] = [];
    for (const { name, scale, items } of SHAPES.filter(({ name }) => wanted.test(name))) {
      const sizes = { ...(quick ? QUICK : FULL), rounds };
      const results = await measureShape(join(dir, name), name, scale * sizes.scale, items, costs, sizes);
      for (const result of results) yield* cellLines(result);
      yield rankingLine(name, results);
      all.push(...results);
    }
    yield summaryLine(all);
  },
};

interface Sizes {
  readonly rounds: number;
  readonly startRequests: number;
  readonly requestsPerRound: number;
}

interface Cell {
  readonly strategy: Strategy;
  /** As given; singular and one-shard have the same plan for any. */
  readonly shards: number | null;
  readonly plan: Plan;
  readonly predicted: PlanPrediction;
}

async function measureShape(dir: string, name: string, scale: number, items: number, costs: Costs, sizes: Sizes): Promise<CellResult[]> {
  const shape = shapeByName(name, scale);
  await writeSyntheticBundle(dir, shape);
  const bundle = await openBundle(dir, { verify: 'later' });
  const generator = new RequestGenerator(requestShape(shape), items);
  const profile = profileOf(
    bundle,
    Array.from({ length: PROFILED_REQUESTS }, () => generator.next(items)),
    items,
  );
  const predictor = new PlanPredictor({ spec: bundle.spec, model: bundle.model as ResolvedModel }, profile, costs);
  const cells = cellsOf(bundle, profile, predictor);
  try {
    const samples = cells.map((): Round[] => []);
    for (let round = 0; round < sizes.rounds; round++) {
      for (const [index, cell] of cells.entries()) {
        // The same requests for every plan, made anew: a garbage collection visits all that are kept.
        const repeated = new RequestGenerator(requestShape(shape), round);
        samples[index]?.push(await measureCell(cell, dir, sizes, () => repeated.next(items)));
      }
    }
    return cells.map((cell, index) => resultOf(name, cell, samples[index] as Round[]));
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/**
 * A round of one plan, launched for it, with no other plan's processes beside it, as in service and as costs are measured: shards that lie idle
 * while others take turns shrink their heaps and lose their caches, and take up to twice the CPU for a while afterwards. Processes differ from launch to
 * launch, which rounds of one launch would hide.
 */
async function measureCell({ plan }: Cell, bundle: string, sizes: Sizes, next: () => PredictRequest): Promise<Round> {
  const requestsOf = (count: number): PredictRequest[] => Array.from({ length: count }, next);
  const cluster = await launchCluster(plan, { bundle, ephemeralPorts: true, verify: 'size' });
  try {
    const predictor = await connect(cluster.plan, { bundle, verify: 'size' });
    try {
      await ask(predictor, requestsOf(sizes.requestsPerRound), sizes.startRequests);
      return await measure(predictor, requestsOf(sizes.requestsPerRound));
    } finally {
      await predictor.close();
    }
  } finally {
    await cluster.stop();
  }
}

function profileOf({ spec, model }: Bundle, requests: readonly PredictRequest[], items: number): Profile {
  const builder = new ProfileBuilder(spec);
  for (const { sparse } of requests) {
    const bags = (model as ResolvedModel).bags.map(({ name }) => {
      const input = sparse[name] as PredictRequest['sparse'][string];
      return { numBags: input.offsets.length - 1, input };
    });
    builder.add({ items, bags });
  }
  return builder.build();
}

function cellsOf({ spec, hash }: Bundle, profile: Profile, predictor: PlanPredictor): Cell[] {
  return STRATEGIES.flatMap((strategy) =>
    (strategy === 'singular' || strategy === 'one-shard' ? [null] : SHARDS).map((shards) => {
      const plan = makePlan(strategy, spec, hash, profile, { shards: shards ?? 1 });
      return { strategy, shards, plan, predicted: predictor.predict(plan) };
    }),
  );
}

interface Round {
  /** Per request. */
  readonly mainCpuUs: number;
  readonly shardCpuUs: number;
  readonly p50Us: number;
  /** Garbage collection of main. */
  readonly collectionUs: number;
}

/** So many requests in a row, round and round. */
async function ask(predictor: ShardedPredictor, requests: readonly PredictRequest[], count: number): Promise<void> {
  for (let n = 0; n < count; n++) await predictor.predict(requests[n % requests.length] as PredictRequest, { deadlineMs: DEADLINE_MS });
}

async function measure(predictor: ShardedPredictor, requests: readonly PredictRequest[]): Promise<Round> {
  await ask(predictor, requests, WARM_UP);
  const microseconds = new Float64Array(requests.length);
  const meter = new ProcessMeter(() => shardCpuUs(predictor));
  try {
    meter.start();
    for (const [index, request] of requests.entries()) {
      const startedAt = performance.now();
      await predictor.predict(request, { deadlineMs: DEADLINE_MS });
      microseconds[index] = (performance.now() - startedAt) * 1000;
    }
    const cost = await meter.stop();
    const perRequest = (amount: number): number => amount / requests.length;
    return {
      ...{ mainCpuUs: perRequest(cost.mainCpuUs), shardCpuUs: perRequest(cost.shardCpuUs ?? 0) },
      ...{ p50Us: quantile(microseconds.sort(), 0.5), collectionUs: perRequest(cost.collectionMs * 1000) },
    };
  } finally {
    meter.close();
  }
}

function resultOf(shape: string, { strategy, shards, predicted }: Cell, rounds: readonly Round[]): CellResult {
  return {
    ...{ shape, strategy, shards, predicted: { cpuUs: predicted.cpuUs, mainCpuUs: predicted.main.cpuUs, p50Us: predicted.p50Us } },
    measured: {
      cpuUs: median(rounds.map(cpuOf)),
      mainCpuUs: median(rounds.map(({ mainCpuUs }) => mainCpuUs)),
      p50Us: median(rounds.map(({ p50Us }) => p50Us)),
    },
    collectionUs: median(rounds.map(({ collectionUs }) => collectionUs)),
    roundsUs: { cpuUs: rounds.map(cpuOf), p50Us: rounds.map(({ p50Us }) => p50Us) },
  };
}

const cpuOf = ({ mainCpuUs, shardCpuUs }: Round): number => mainCpuUs + shardCpuUs;

/** CPU and P50: what was measured and its spread, what was predicted, and the ratio of the two. */
function cellLines({ shape, strategy, shards, predicted, measured, collectionUs, roundsUs }: CellResult): Line[] {
  return (['cpuUs', 'p50Us'] as const).map((key) => {
    const ratio = predicted[key] / measured[key];
    const note = `predicted ${predicted[key].toFixed(0)} us, ${ratio.toFixed(2)} x`;
    const [ofMain, predictedOfMain] = [measured.mainCpuUs, predicted.mainCpuUs];
    return {
      ...{ suite: 'plan', case: `${shape}-${strategy}${shards === null ? '' : `-${shards}`}-${key === 'cpuUs' ? 'cpu' : 'p50'}` },
      params: {
        ...{ shape, strategy, shards: shards ?? 0, predictedUs: predicted[key], predictedOverMeasured: ratio },
        ...(key === 'cpuUs' && { mainUs: ofMain, predictedMainUs: predictedOfMain, collectionUs }),
      },
      ...{ metric: key === 'cpuUs' ? 'CPU per request, all processes' : 'P50', unit: 'us', value: measured[key], peer: null, ratio: null },
      ...{ spread: quartileRange(roundsUs[key]) / 2 / measured[key], isa: native.isa, threads: 1, residency: 'populate' },
      note:
        key === 'cpuUs'
          ? `${note}; of main ${ofMain.toFixed(0)}, predicted ${predictedOfMain.toFixed(0)}; collecting garbage ${collectionUs.toFixed(0)}`
          : note,
    };
  });
}
