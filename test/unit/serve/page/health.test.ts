import { expect, test } from 'vitest';
import { TerabagError } from '../../../../src/errors.js';
import type { ReplicaState } from '../../../../src/rpc/client.js';
import { HealthWatch } from '../../../../src/serve/page/health.js';

const replica = (shard: string, number: number, more: Partial<ReplicaState> = {}): ReplicaState => ({
  ...{ shard, endpoint: `tcp://h:${number}`, ready: true, draining: false, ejected: false, why: null, inFlight: 0 },
  ...{ latencyMs: 1, latencyAgeMs: 5, roundTripMs: 0.4, unheardMs: 0 },
  ...more,
});
/** What is told after so many looks at the same. */
const judged = (states: readonly ReplicaState[], looks = 5) => {
  const watch = new HealthWatch();
  for (let look = 1; look < looks; look++) watch.judge(states);
  return watch.judge(states);
};
const healths = (states: readonly ReplicaState[], looks?: number) => judged(states, looks).map(({ health }) => health);

test('replicas that are alike are up', () => {
  expect(healths([replica('s', 1), replica('s', 2, { latencyMs: 2.5 }), replica('t', 3, { latencyMs: 9 })])).toEqual(['up', 'up', 'up']);
});

test('one that is away is down, and says why without its own name and place', () => {
  const why = new TerabagError('shard_unavailable', 'shard cannot be reached (ECONNREFUSED): s at tcp://h:2');
  const states = [replica('s', 1), replica('s', 2, { ready: false, why }), replica('s', 3, { ready: false, draining: true, why })];
  expect(judged(states, 1)).toEqual([
    { health: 'up', why: '' },
    { health: 'down', why: 'cannot be reached (ECONNREFUSED)' },
    { health: 'draining', why: 'takes no more requests' },
  ]);
});

test('one whose answers or heartbeats take much longer than those of its siblings is slow, by the third look', () => {
  const late = [replica('s', 1), replica('s', 2, { latencyMs: 30 }), replica('t', 3, { latencyMs: 15 })];
  expect(healths(late, 2)).toEqual(['up', 'up', 'up']);
  expect(healths(late, 3)).toEqual(['up', 'slow', 'up']);
  expect(judged([replica('s', 1), replica('s', 2, { roundTripMs: 25 })], 3)[1]).toEqual({
    health: 'slow',
    why: 'heartbeats take 25 ms, those of its siblings 0.4 ms',
  });
});

test('a pause is not slowness, nor what was measured long ago', () => {
  const watch = new HealthWatch();
  const pair = (latencyMs: number) => [replica('s', 1), replica('s', 2, { latencyMs })];
  for (const latencyMs of [1, 80, 1, 80, 1]) expect(watch.judge(pair(latencyMs)).map(({ health }) => health)).toEqual(['up', 'up']);
  expect(healths([replica('s', 1), replica('s', 2, { latencyMs: 80, latencyAgeMs: 60_000 })])).toEqual(['up', 'up']);
});

test('a sole replica is compared with other shards, and needs to be far slower', () => {
  const others = [replica('t', 2), replica('u', 3)];
  expect(healths([replica('s', 1, { latencyMs: 15 }), ...others])).toEqual(['up', 'up', 'up']);
  expect(healths([replica('s', 1, { latencyMs: 40 }), ...others])).toEqual(['slow', 'up', 'up']);
});

test('one that owes a sign is slow at once, one whose answers failed is ejected', () => {
  expect(healths([replica('s', 1, { unheardMs: 700 }), replica('s', 2, { ejected: true })], 1)).toEqual(['slow', 'ejected']);
});

test('what it took before it was away says nothing of it now', () => {
  const watch = new HealthWatch();
  const of = (more: Partial<ReplicaState>) => watch.judge([replica('s', 1), replica('s', 2, more)])[1]?.health;
  for (let look = 0; look < 5; look++) of({ latencyMs: 90 });
  expect(of({ latencyMs: 90 })).toBe('slow');
  expect(of({ ready: false })).toBe('down');
  expect(of({ latencyMs: 1 })).toBe('up');
});
