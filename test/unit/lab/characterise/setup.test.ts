import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Compared, comparedWith, inParts, SINGULAR, setupId, sharded } from '../../../../src/lab/characterise/setup.js';

const STRATEGIES = ['capacity-balanced', 'load-balanced', 'nsbp'] as const;

test('an id names what differs from the usual, and nothing else', () => {
  expect(setupId(SINGULAR)).toBe('singular');
  expect(setupId(sharded('one-shard', 1))).toBe('one-shard');
  expect(setupId({ ...sharded('nsbp', 4), rpc: 'paper', batchItems: 16, rowFormat: 'int8' })).toBe('nsbp-4-paper-int8-batch16');
  expect(setupId({ ...sharded('nsbp', 4), network: { delayMs: 2, loss: 0.01 } })).toBe('nsbp-4-delay2ms-loss1%');
  expect(setupId({ ...sharded('nsbp', 4), network: { delayMs: 0, loss: 0 }, shardCpuLimit: 0.5 })).toBe('nsbp-4-delay0ms-cpu0.5');
});

const setups = fc.uniqueArray(
  fc
    .record({ strategy: fc.constantFrom(...STRATEGIES), shards: fc.integer({ min: 2, max: 16 }) })
    .map(({ strategy, shards }) => sharded(strategy, shards)),
  { selector: setupId, maxLength: 12 },
);
const ids = (part: readonly Compared[]): string[] => part.map(({ setup }) => setupId(setup));

test('parts have every setup once, each with its baseline, and only as many shards as may be open', () => {
  fc.assert(
    fc.property(setups, setups, fc.integer({ min: 1, max: 40 }), (first, second, most) => {
      const base = { ...SINGULAR, batchItems: 16 };
      const other = second.map((setup) => ({ ...setup, batchItems: 16 }));
      const compared = [...comparedWith(SINGULAR, first), ...comparedWith(base, other)];
      const parts = inParts(compared, most);
      const baselines = new Set(['singular', 'singular-batch16']);
      const sharding = parts.flatMap(ids).filter((id) => !baselines.has(id));
      expect(sharding.sort()).toEqual([...first, ...other].map(setupId).sort());
      for (const part of parts) {
        expect(new Set(ids(part)).size).toBe(part.length);
        for (const { baseline } of part) expect(ids(part)).toContain(setupId(baseline));
        const withShards = part.filter(({ setup }) => setup.shards > 0);
        const shards = withShards.reduce((sum, { setup }) => sum + setup.shards, 0);
        expect(withShards.length <= 1 || shards <= most).toBe(true);
      }
    }),
  );
});

test('what fits is open at once', () => {
  const compared = comparedWith(SINGULAR, [sharded('nsbp', 2), sharded('nsbp', 4), sharded('nsbp', 8)]);
  expect(inParts(compared, 14).map(ids)).toEqual([['singular', 'nsbp-2', 'nsbp-4', 'nsbp-8']]);
  expect(inParts(compared, 13).map(ids)).toEqual([
    ['singular', 'nsbp-2', 'nsbp-4'],
    ['singular', 'nsbp-8'],
  ]);
});
