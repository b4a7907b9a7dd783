import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { LinkAttempt, ShardLink } from '../../../../src/rpc/link.js';
import { chooseReplica } from '../../../../src/rpc/replicas/choose.js';
import { Replica } from '../../../../src/rpc/replicas/replica.js';
import { random } from '../../../reference/small-model.js';

/** What a replica asks of its link. */
function replicaOf({ inFlight = 0, othersInFlight = 0, unheardMs = 0, ready = true } = {}) {
  const link = { inFlight, othersInFlight, ready, unheardMs: () => unheardMs };
  const replica = new Replica(link as unknown as ShardLink<LinkAttempt>, 0);
  return { link, replica };
}

/** One that answers in so long. */
function answering(ms: number, more: Parameters<typeof replicaOf>[0] = {}): Replica<LinkAttempt> {
  const { replica } = replicaOf(more);
  for (let n = 0; n < 50; n++) replica.answered(ms, 0);
  return replica;
}

test('the cost is what one request takes times those that are in the way, own and of others, and the one itself', () => {
  fc.assert(
    fc.property(fc.nat(50), fc.nat(50), fc.integer({ min: 1, max: 100 }), (inFlight, othersInFlight, ms) => {
      expect(answering(ms, { inFlight, othersInFlight }).cost(0)).toBeCloseTo((inFlight + othersInFlight + 1) * ms, 6);
    }),
  );
});

test('a replica that owes a sign for longer than a request takes counts as that slow', () => {
  expect(answering(2, { inFlight: 3, unheardMs: 50 }).cost(0)).toBeCloseTo(200, 6);
  expect(answering(2, { inFlight: 3, unheardMs: 1 }).cost(0)).toBeCloseTo(8, 6);
});

test('a replica that nothing is known of gets one request, and more only when there is nobody else', () => {
  const { replica, link } = replicaOf();
  expect(replica.cost(0)).toBe(0);
  link.inFlight = 1;
  expect(replica.cost(0)).toBeGreaterThan(answering(1000, { inFlight: 1000 }).cost(0));
});

test('one that has never answered is known by how long it was waited for', () => {
  const { replica } = replicaOf();
  replica.givenUp(50, 100);
  expect(replica.cost(100)).toBeCloseTo(50, 6);
});

test('an answer that took long counts a little; many count fully; a single pause does not turn away all requests', () => {
  const replica = answering(1);
  replica.answered(1000, 0);
  expect(replica.cost(0)).toBeLessThan(2);
  for (let n = 0; n < 12; n++) replica.answered(10, 0);
  expect(replica.cost(0)).toBeGreaterThan(6);
  for (let n = 0; n < 50; n++) replica.answered(10, 0);
  expect(replica.cost(0)).toBeCloseTo(10, 1);
});

test('what was given up counts when it took longer than what is known, and not when it took less', () => {
  const replica = answering(10);
  replica.givenUp(3, 0);
  expect(replica.cost(0)).toBeCloseTo(10, 2);
  replica.givenUp(20, 0);
  expect(replica.cost(0)).toBeGreaterThan(11);
});

test('what is known counts half after 500 ms without an answer, and what comes after a long time counts nearly alone', () => {
  const replica = answering(64);
  expect(replica.cost(500)).toBeCloseTo(32, 2);
  expect(replica.cost(1000)).toBeCloseTo(16, 2);
  replica.answered(1, 5000);
  expect(replica.cost(5000)).toBeLessThan(1.2);
});

test('a replica that refused a request as one too many is the dearest for 100 ms', () => {
  const replica = answering(1);
  replica.overloaded(1000);
  expect(replica.cost(1099)).toBe(Number.POSITIVE_INFINITY);
  expect(replica.cost(1100)).toBeLessThan(1);
});

test('tiers: sound ones, then silent ones, then ejected ones, then those whose address is gone; none that is not ready', () => {
  const { replica, link } = replicaOf();
  expect(replica.tier(0)).toBe(0);
  expect(replicaOf({ unheardMs: 101 }).replica.tier(0)).toBe(1);
  for (let n = 0; n < 5; n++) replica.ejection.failed(0);
  expect([replica.tier(0), replica.tier(500)]).toEqual([2, 0]);
  expect(replica.cost(500)).toBe(0);
  replica.ejection.probe(500);
  expect(replica.tier(500)).toBe(2);
  replica.listed = false;
  expect(replica.tier(500)).toBe(3);
  link.ready = false;
  expect(replica.tier(500)).toBeNull();
});

test('replicas that fell silent are asked only when all have, and before those that are ejected', () => {
  const [silent, silentToo, heard] = [answering(1, { unheardMs: 150 }), answering(1, { unheardMs: 400 }), answering(50, { unheardMs: 90 })];
  const choice = { now: 0, random: random(5), except: new Set<Replica<LinkAttempt>>() };
  for (let n = 0; n < 100; n++) expect(chooseReplica([silent, silentToo, heard], choice)).toBe(heard);
  const ejected = answering(1);
  while (ejected.ejection.sound) ejected.ejection.failed(0);
  for (let n = 0; n < 100; n++) expect(chooseReplica([silent, silentToo, ejected], choice)).toBe(silent);
});
