import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Candidate, chooseReplica } from '../../../../src/rpc/replicas/choose.js';
import { random } from '../../../reference/small-model.js';

interface Stub extends Candidate {
  readonly name: number;
  readonly tierIs: number | null;
  readonly costIs: number;
}

const stubs = (specs: readonly { tier: number | null; cost: number }[]): Stub[] =>
  specs.map(({ tier, cost }, name) => ({ name, tierIs: tier, costIs: cost, tier: () => tier, cost: () => cost }));

const some = fc.array(fc.record({ tier: fc.constantFrom(0, 0, 1, 2, null), cost: fc.nat(9) }), { maxLength: 8 });

test('a candidate of the best tier is chosen, never an excluded one, and none only when there is none', () => {
  fc.assert(
    fc.property(some, fc.array(fc.nat(7), { maxLength: 4 }), fc.nat(), (specs, excluded, seed) => {
      const candidates = stubs(specs);
      const except = new Set(candidates.filter(({ name }) => excluded.includes(name)));
      const chosen = chooseReplica(candidates, { now: 0, random: random(seed + 1), except });
      const allowed = candidates.filter((candidate) => !except.has(candidate) && candidate.tierIs !== null);
      const best = Math.min(...allowed.map(({ tierIs }) => tierIs as number));
      if (allowed.length === 0) expect(chosen).toBeNull();
      else expect(allowed.filter(({ tierIs }) => tierIs === best)).toContain(chosen);
    }),
    { numRuns: 500 },
  );
});

test('of two the cheaper is always chosen, and of more the dearest never', () => {
  fc.assert(
    fc.property(fc.uniqueArray(fc.nat(100), { minLength: 2, maxLength: 8 }), fc.nat(), (costs, seed) => {
      const candidates = stubs(costs.map((cost) => ({ tier: 0, cost })));
      const next = random(seed + 1);
      for (let n = 0; n < 50; n++) {
        const chosen = chooseReplica(candidates, { now: 0, random: next, except: new Set() });
        if (costs.length === 2) expect(chosen?.costIs).toBe(Math.min(...costs));
        expect(chosen?.costIs).toBeLessThan(Math.max(...costs));
      }
    }),
    { numRuns: 100 },
  );
});

test('equals are chosen equally often, and a cheaper one of n as often as it is drawn', () => {
  const share = (costs: readonly number[], which: number): number => {
    const candidates = stubs(costs.map((cost) => ({ tier: 0, cost })));
    const next = random(7);
    let chosen = 0;
    for (let n = 0; n < 20_000; n++) if (chooseReplica(candidates, { now: 0, random: next, except: new Set() })?.name === which) chosen++;
    return chosen / 20_000;
  };
  for (const which of [0, 1, 2, 3]) expect(share([5, 5, 5, 5], which)).toBeCloseTo(1 / 4, 1);
  // It is one of the two that are drawn in half of all draws.
  for (const which of [0, 1, 2, 3]) expect(share([5, 5, 5, 5].with(which, 1), which)).toBeCloseTo(1 / 2, 1);
});
