import { expect, test } from 'vitest';
import { scheduleLine } from '../../../src/cli/bench-table.js';

const sizes = (...qps: number[]) => qps.map((each, n) => ({ items: 2 ** n, qps: each }));

test('a schedule names the best batch size, and none where none meets the bound or was measured', () => {
  const [first, second] = sizes(3, 7) as [{ items: number; qps: number }, { items: number; qps: number }];
  expect(scheduleLine({ best: second, measured: [first, second] })).toBe('best batch size: 2 items, 7.0 qps (measured: 1: 3.0, 2: 7.0)');
  expect(scheduleLine({ best: { items: 1, qps: 0 }, measured: sizes(0, 0) })).toBe(
    'no batch size meets the bound (measured: 1: 0.0, 2: 0.0)',
  );
  expect(scheduleLine({ best: { items: 64, qps: 0 }, measured: [] })).toBe('no batch size was measured');
});
