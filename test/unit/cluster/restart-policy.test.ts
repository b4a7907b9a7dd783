import { expect, test } from 'vitest';
import { RestartPolicy } from '../../../src/cluster/restart-policy.js';

test('the first restart is at once; then pauses double with each crash in a row, up to 5 s, and begin anew after a healthy run', () => {
  const policy = new RestartPolicy();
  const pauses = (count: number, ranMs: number): number[] => Array.from({ length: count }, () => policy.pauseMs(ranMs));
  expect(pauses(8, 0)).toEqual([0, 100, 200, 400, 800, 1600, 3200, 5000]);
  expect(pauses(3, 10_000)).toEqual([5000, 5000, 5000]);
  expect(pauses(1, 10_001)).toEqual([0]);
  expect(pauses(2, 5)).toEqual([100, 200]);
});
