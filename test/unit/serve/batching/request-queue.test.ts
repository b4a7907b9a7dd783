import { expect, test } from 'vitest';
import type { Priority } from '../../../../src/predictor/predictor.js';
import { type Queued, RequestQueue } from '../../../../src/serve/batching/request-queue.js';

const request = (caller: string, items: number, priority: Priority = 'normal', dueAt = 5): Queued => ({ caller, items, priority, dueAt });

function filled(...requests: readonly Queued[]): RequestQueue<Queued> {
  const queue = new RequestQueue<Queued>();
  for (const each of requests) queue.add(each);
  return queue;
}

function takeAll(queue: RequestQueue<Queued>, most = Number.POSITIVE_INFINITY): Queued[] {
  const taken: Queued[] = [];
  for (let next = queue.next(); next !== null && taken.length < most; next = queue.next()) {
    queue.take(next);
    taken.push(next);
  }
  return taken;
}

test('requests of one caller come in their order, those of a higher priority before all others', () => {
  const [low, first, second, high] = [request('a', 1, 'low'), request('a', 1), request('a', 1), request('b', 1, 'high')];
  expect(takeAll(filled(low, first, second, high))).toEqual([high, first, second, low]);
});

test('callers get as many items each, whatever the size and number of their requests', () => {
  const many = Array.from({ length: 400 }, () => request('many', 4));
  const large = Array.from({ length: 400 }, () => request('large', 200));
  const few = Array.from({ length: 400 }, () => request('few', 16));
  const taken = takeAll(filled(...many, ...large, ...few), 300);
  const itemsOf = (caller: string): number => taken.filter((each) => each.caller === caller).reduce((sum, { items }) => sum + items, 0);
  for (const caller of ['many', 'few']) {
    expect(itemsOf(caller)).toBeGreaterThan(itemsOf('large') - 264);
    expect(itemsOf(caller)).toBeLessThan(itemsOf('large') + 264);
  }
});

test('size, items and the earliest start follow what is added, taken and deleted', () => {
  const [one, two] = [request('a', 3, 'normal', 9), request('b', 4, 'high', 7)];
  const queue = filled(one, two);
  expect([queue.size, queue.items, queue.dueAt]).toEqual([2, 7, 7]);
  queue.delete(two);
  queue.delete(two);
  queue.updateDueAt();
  expect([queue.size, queue.items, queue.dueAt]).toEqual([1, 3, 9]);
  queue.take(queue.next()!);
  queue.updateDueAt();
  expect([queue.size, queue.items, queue.dueAt, queue.next()]).toEqual([0, 0, Number.POSITIVE_INFINITY, null]);
});

test('who has to go is the latest of the caller that has most waiting, in the lowest priority', () => {
  const [first, latest, other] = [request('a', 8), request('a', 8), request('b', 9)];
  expect(filled(first, latest, other).toDrop(request('c', 1))).toBe(latest);
  expect(filled(first, latest, other).toDrop(request('b', 1))).toBe(latest);
  // Its own, or that of one who has no more: the one that comes is refused.
  expect(filled(first, latest, other).toDrop(request('a', 1))).toBeNull();
  expect(filled(first).toDrop({ ...request('b', 1), priority: 'low' })).toBeNull();
  const low = request('b', 1, 'low');
  expect(filled(first, latest, low).toDrop(request('a', 1))).toBe(low);
  expect(filled().toDrop(request('a', 1))).toBeNull();
});
