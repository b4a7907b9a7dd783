import { join } from 'node:path';
import { native } from '../src/engine/native.js';
import { demoShape } from '../src/lab/generate/model-shape.js';
import { RequestGenerator } from '../src/lab/generate/request-generator.js';
import { requestShape } from '../src/lab/generate/request-shape.js';
import { writeSyntheticBundle } from '../src/lab/generate/synthetic-bundle.js';
import { modelHash } from '../src/model/hash.js';
import { stacksAtQuantile } from '../src/observe/quantile-stacks.js';
import { Tracer } from '../src/observe/tracer.js';
import { makePlan } from '../src/plan/placement/strategies.js';
import { profileFromSpec } from '../src/plan/profile/profile-from-spec.js';
import type { Predictor, PredictRequest } from '../src/predictor/predictor.js';
import { type Line, median, quartileSpread, type Suite } from './suite.js';
import { openLocalTarget, openShardedTarget } from './targets.js';

const FULL = { bytes: 2 ** 29, rounds: 15, blocks: 20, warmUpBlocks: 500 };
const QUICK = { bytes: 32 * 2 ** 20, rounds: 3, blocks: 4, warmUpBlocks: 4 };
/** Requests between two switches: few, so that a slow moment of the machine falls on all arms. */
const BLOCK = 8;
const SHARDS = 4;
const ITEMS = [8, 64] as const;
const DEADLINE_MS = 10_000;
const TURNS = 32;

/** control is off once more: how far it is from off is what the method cannot tell apart. */
const ARMS = ['off', 'on', 'control'] as const;
type Arm = (typeof ARMS)[number];

interface TracedTarget {
  readonly name: string;
  readonly tracer: Tracer;
  readonly predictor: Predictor;
}

export const stagesSuite: Suite = {
  name: 'stages',
  description: `what stamping every stage costs: P50 of requests, one at a time, with and without, local and on ${SHARDS} shards of this machine`,
  async *run({ quick, dir, wanted }) {
    const { bytes, ...trial } = quick ? QUICK : FULL;
    const shape = demoShape(bytes);
    const bundle = join(dir, 'model');
    const spec = await writeSyntheticBundle(bundle, shape);
    const plan = makePlan('capacity-balanced', spec, modelHash(spec), profileFromSpec(spec), { shards: SHARDS });
    const openers = {
      local: (trace: Tracer) => openLocalTarget(bundle, { trace }),
      [`${SHARDS}-shards`]: (trace: Tracer) => openShardedTarget(plan, bundle, { trace }),
    };
    for (const [name, open] of Object.entries(openers)) {
      const tracer = new Tracer();
      const { predictor, close } = await open(tracer);
      try {
        for (const items of ITEMS.filter((count) => wanted.test(`${name}-items${count}`))) {
          const generator = new RequestGenerator(requestShape(shape), items);
          const requests = Array.from({ length: TURNS }, () => generator.next(items));
          yield* compare({ name, tracer, predictor }, requests, items, trial);
        }
      } finally {
        await close();
      }
    }
  },
};

async function* compare(
  target: TracedTarget,
  requests: readonly PredictRequest[],
  items: number,
  { rounds, blocks, warmUpBlocks }: Omit<typeof FULL, 'bytes'>,
): AsyncGenerator<Line> {
  const { name, tracer } = target;
  const p50s: Record<Arm, number[]> = { off: [], on: [], control: [] };
  tracer.clear();
  // Until all arms run as compiled code, here and on the shards, as they do in a process that serves: some thousand requests.
  for (let round = -1; round < rounds; round++) {
    const samples: Record<Arm, number[]> = { off: [], on: [], control: [] };
    for (let block = 0; block < (round < 0 ? warmUpBlocks : blocks); block++) {
      // Another arm begins each time.
      const same = Array.from({ length: BLOCK }, (_, n) => requests[(block * BLOCK + n) % requests.length] as PredictRequest);
      for (let turn = 0; turn < ARMS.length; turn++) await runBlock(target, same, ARMS[(block + turn) % ARMS.length] as Arm, samples);
    }
    if (round >= 0) for (const arm of ARMS) p50s[arm].push(median(samples[arm]));
  }
  tracer.enabled = false;
  const line = (metric: string, unit: string, value: number, ratios: readonly number[]): Line => ({
    suite: 'stages',
    case: `${name}-items${items}-${metric}`,
    params: { items, rounds, requests: blocks * BLOCK },
    metric,
    unit,
    value,
    peer: null,
    ratio: null,
    spread: quartileSpread(ratios),
    isa: native.isa,
    threads: 1,
    residency: 'populate',
  });
  const over = (arm: Arm): number[] => p50s[arm].map((p50, round) => p50 / (p50s.off[round] as number));
  yield line(
    'p50-off',
    'us',
    median(p50s.off),
    p50s.off.map((p50) => p50 / median(p50s.off)),
  );
  yield line('p50-on-over-off', 'x', median(over('on')), over('on'));
  yield line('p50-on-minus-off', 'us', median(p50s.on.map((p50, round) => p50 - (p50s.off[round] as number))), over('on'));
  yield line('p50-control-over-off', 'x', median(over('control')), over('control'));
  const { latency } = stacksAtQuantile(tracer.requests(), 0.5);
  for (const [layer, us] of Object.entries(latency.layers))
    yield line(`${layer}-at-p50`, '% of the request', (100 * us) / latency.totalUs, [1]);
}

async function runBlock(
  { tracer, predictor }: TracedTarget,
  requests: readonly PredictRequest[],
  arm: Arm,
  samples: Record<Arm, number[]>,
): Promise<void> {
  tracer.enabled = arm === 'on';
  for (const request of requests) {
    const startedAt = performance.now();
    await predictor.predict(request, { deadlineMs: DEADLINE_MS });
    samples[arm].push((performance.now() - startedAt) * 1000);
  }
}
