import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { IdlePool } from '../../src/idle-pool.js';

const PERIOD_MS = 10_000;

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

/** Lends so many at once. */
function use(pool: IdlePool<number>, count: number): number[] {
  const lent = Array.from({ length: count }, () => pool.take() as number);
  for (const item of [...lent].reverse()) pool.giveBack(item);
  return lent;
}

test('the latest that was given back is lent first, and none when all are lent', () => {
  const pool = new IdlePool<number>();
  for (const item of [1, 2, 3]) pool.giveBack(item);
  expect([pool.take(), pool.take(), pool.take(), pool.take()]).toEqual([3, 2, 1, undefined]);
});

test('what nobody needed through a whole period is dropped, the least recently used first', () => {
  const dropped: number[] = [];
  const pool = new IdlePool<number>({ dropped: (item) => dropped.push(item) });
  for (const item of [1, 2, 3, 4, 5]) pool.giveBack(item);
  // The first period began empty.
  vi.advanceTimersByTime(PERIOD_MS);
  expect(dropped).toEqual([]);
  for (let n = 0; n < 5; n++) use(pool, 1);
  use(pool, 2);
  vi.advanceTimersByTime(PERIOD_MS);
  expect(dropped).toEqual([1, 2, 3]);
  use(pool, 2);
  vi.advanceTimersByTime(PERIOD_MS);
  expect(pool.size).toBe(2);
  vi.advanceTimersByTime(PERIOD_MS);
  expect([pool.size, dropped]).toEqual([0, [1, 2, 3, 4, 5]]);
});

test('items that are no more worth keeping are dropped at the end of a period', () => {
  const pool = new IdlePool<number>({ keeps: (item) => item % 2 === 0 });
  for (const item of [1, 2, 3, 4]) pool.giveBack(item);
  vi.advanceTimersByTime(PERIOD_MS);
  expect([pool.take(), pool.take(), pool.take()]).toEqual([4, 2, undefined]);
});

test('a pool has a timer only while it holds something, which does not keep the process alive', () => {
  const timers = vi.spyOn(globalThis, 'setInterval');
  const pool = new IdlePool<number>();
  expect(vi.getTimerCount()).toBe(0);
  pool.giveBack(1);
  pool.giveBack(2);
  expect(vi.getTimerCount()).toBe(1);
  expect(timers.mock.results.map(({ value }) => value.hasRef())).toEqual([false]);
  pool.clear();
  expect([pool.size, vi.getTimerCount()]).toEqual([0, 0]);
  pool.giveBack(3);
  pool.take();
  vi.advanceTimersByTime(PERIOD_MS);
  expect(vi.getTimerCount()).toBe(0);
});
