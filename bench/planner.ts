import { native } from '../src/engine/native.js';
import { SeededNumbers } from '../src/lab/generate/synthetic-values.js';
import { modelHash } from '../src/model/hash.js';
import type { ModelSpec } from '../src/model/spec.js';
import { DEFAULT_COSTS } from '../src/plan/predict/default-costs.js';
import { PlanPredictor } from '../src/plan/predict/predict-plan.js';
import { profileFromSpec } from '../src/plan/profile/profile-from-spec.js';
import { planAuto } from '../src/plan/search/auto.js';
import { bagsOnly } from '../test/reference/specs.js';
import { type Line, median, type Suite } from './suite.js';

const [TABLES, SHARDS] = [10_000, 1000];
/** All shards together hold this many times the tables' bytes. */
const ROOM = 1.3;
const NETS = 2;
const QUICK = 10;

export const plannerSuite: Suite = {
  name: 'planner',
  description: `auto plans of ${TABLES} tables over ${SHARDS} shards, from profile to plan, in memory`,
  async *run({ quick, rounds, wanted }) {
    const [tables, shards] = quick ? [TABLES / QUICK, SHARDS / QUICK] : [TABLES, SHARDS];
    const spec = bigSpec(tables);
    const profile = profileFromSpec(spec);
    const hash = modelHash(spec);
    const bytes = spec.tables.reduce((sum, { rows, dim }) => sum + rows * dim * 4, 0);
    for (const objective of ['p99', 'cpu'] as const) {
      for (const sharedCores of [null, 2]) {
        const name = `${tables}x${shards}-${objective}-${sharedCores === null ? 'own-hosts' : 'one-host'}`;
        if (!wanted.test(name)) continue;
        const planned = { spec, model: bagsOnly(spec) };
        const samples = Array.from({ length: rounds + 1 }, () => {
          const startedAt = performance.now();
          const predictor = new PlanPredictor(planned, profile, { ...DEFAULT_COSTS, sharedCores });
          const { plan } = planAuto(predictor, hash, { shards, objective, memoryLimitBytes: (ROOM * bytes) / shards, localBytes: 0 });
          return { ms: performance.now() - startedAt, used: plan.shards.length };
        });
        yield {
          ...{
            suite: 'planner',
            case: name,
            params: { tables, shards, used: samples[0]?.used ?? 0 },
            metric: 'time of a plan',
            unit: 'ms',
          },
          // The first one counts too: a command plans once.
          ...{
            value: median(samples.map(({ ms }) => ms)),
            peer: null,
            ratio: null,
            spread: null,
            isa: native.isa,
            threads: 1,
            residency: 'none',
          },
          note: `first ${samples[0]?.ms.toFixed(0)} ms`,
        } satisfies Line;
      }
    }
  },
};

/** Sizes over five orders of magnitude, pooling factors up to 100, two nets. */
function bigSpec(tables: number): ModelSpec {
  const numbers = new SeededNumbers(TABLES);
  const name = (table: number): string => `table_${table}`;
  const all = Array.from({ length: tables }, (_, table) => table);
  return {
    terabag: 1,
    name: 'big',
    version: '1',
    dense: [],
    tables: all.map((table) => ({
      ...{
        name: name(table),
        rows: Math.ceil(10 ** (2 + 5 * numbers.uniform())),
        dim: 64,
        format: 'fp32',
        file: `${name(table)}.safetensors`,
        tensor: 'weight',
      },
    })),
    nets: Array.from({ length: NETS }, (_, net) => ({
      name: `net_${net}`,
      layers: all
        .filter((table) => table % NETS === net)
        .map((table) => ({
          ...{ type: 'embedding_bag', name: `${name(table)}_bag`, table: name(table), pooling: 'sum', weighted: false },
          ...{ poolingFactor: Math.ceil(100 ** numbers.uniform()), side: table % 3 === 2 ? 'item' : 'user' },
        })),
    })),
    output: 'none',
    files: {},
  };
}
