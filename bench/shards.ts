import { join } from 'node:path';
import { native } from '../src/engine/native.js';
import { demoShape } from '../src/lab/generate/model-shape.js';
import { RequestGenerator } from '../src/lab/generate/request-generator.js';
import { requestShape } from '../src/lab/generate/request-shape.js';
import { writeSyntheticBundle } from '../src/lab/generate/synthetic-bundle.js';
import { modelHash } from '../src/model/hash.js';
import { makePlan } from '../src/plan/placement/strategies.js';
import { profileFromSpec } from '../src/plan/profile/profile-from-spec.js';
import { type Line, median, type Suite } from './suite.js';
import { measure, openLocalTarget, openShardedTarget, type Round, type Target } from './targets.js';

const FULL = { bytes: 2 ** 30, rounds: 7, requestsPerRound: 200 };
const QUICK = { bytes: 32 * 2 ** 20, rounds: 3, requestsPerRound: 30 };
const ITEMS = [1, 64] as const;
const SHARDS = [1, 2, 4] as const;

export const shardsSuite: Suite = {
  name: 'shards',
  description: 'whole requests, one at a time: all tables in this process, and 1, 2 and 4 sparse shards on this machine',
  async *run({ quick, dir, wanted }) {
    const { bytes, rounds, requestsPerRound } = quick ? QUICK : FULL;
    const shape = demoShape(bytes);
    const bundle = join(dir, 'model');
    const spec = await writeSyntheticBundle(bundle, shape);
    const targets: Target[] = [];
    try {
      targets.push(await openLocalTarget(bundle));
      for (const shards of SHARDS)
        targets.push(
          await openShardedTarget(makePlan('capacity-balanced', spec, modelHash(spec), profileFromSpec(spec), { shards }), bundle),
        );
      for (const items of ITEMS.filter((count) => wanted.test(`items${count}`))) {
        const generator = new RequestGenerator(requestShape(shape), items);
        const samples = targets.map((): Round[] => []);
        for (let round = -1; round < rounds; round++) {
          const requests = Array.from({ length: requestsPerRound }, () => generator.next(items));
          for (const [index, target] of targets.entries()) {
            const measured = await measure(target, requests);
            if (round >= 0) samples[index]?.push(measured);
          }
        }
        const of = (index: number, pick: (round: Round) => number): number => median((samples[index] ?? []).map(pick));
        for (const [index, { name }] of targets.entries()) {
          const local = samples[0] ?? [];
          const ratio = (pick: (round: Round) => number): number =>
            median((samples[index] ?? []).map((round, r) => pick(round) / pick(local[r] as Round)));
          const figures = [
            ['p50', 'ms', of(index, ({ p50 }) => p50), ratio(({ p50 }) => p50)],
            ['p90', 'ms', of(index, ({ p90 }) => p90), ratio(({ p90 }) => p90)],
            ['p99', 'ms', of(index, ({ p99 }) => p99), ratio(({ p99 }) => p99)],
            ['CPU per request, all processes', 'ms', of(index, ({ cpuMs }) => cpuMs), ratio(({ cpuMs }) => cpuMs)],
          ] as const;
          for (const [metric, unit, value, overLocal] of figures) {
            const base = { suite: 'shards', case: `${name.replace(' ', '-')}-items${items}-${metric.split(' ')[0]}`, metric, unit, value };
            const params = { items, overLocal };
            yield {
              ...base,
              params,
              peer: null,
              ratio: null,
              spread: null,
              isa: native.isa,
              threads: 1,
              residency: 'populate',
            } satisfies Line;
          }
        }
      }
    } finally {
      for (const target of targets) await target.close();
    }
  },
};
