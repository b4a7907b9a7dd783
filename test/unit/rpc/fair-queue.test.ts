import fc from 'fast-check';
import { expect, test } from 'vitest';
import { FairQueue } from '../../../src/rpc/fair-queue.js';

type Step = { readonly add: number } | { readonly drop: number } | 'take';

test('of each peer in order, and of peers in turn: between two of a peer no other is passed over', () => {
  const step: fc.Arbitrary<Step> = fc.oneof(fc.record({ add: fc.nat(3) }), fc.record({ drop: fc.nat(40) }), fc.constant('take' as const));
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const queue = new FairQueue<number, { readonly peer: number }>();
      let waiting: { readonly peer: number }[] = [];
      /** How often another peer was served since, of peers that wait. */
      const passedOver = new Map<number, number[]>();
      for (const each of steps) {
        if (each === 'take') {
          const taken = queue.take();
          const [first] = taken === null ? [] : waiting.filter(({ peer }) => peer === taken.peer);
          expect(taken).toBe(first ?? null);
          expect(taken === null).toBe(waiting.length === 0);
          if (taken === null) continue;
          waiting = waiting.filter((item) => item !== taken);
          passedOver.delete(taken.peer);
          for (const peer of new Set(waiting.map((item) => item.peer))) {
            if (peer === taken.peer) continue;
            const served = passedOver.get(peer) ?? [];
            expect(served).not.toContain(taken.peer);
            passedOver.set(peer, [...served, taken.peer]);
          }
        } else if ('add' in each) {
          const item = { peer: each.add };
          queue.add(each.add, item);
          waiting.push(item);
        } else {
          const item = waiting[each.drop % Math.max(1, waiting.length)];
          if (item === undefined) continue;
          expect(queue.delete(item.peer, item)).toBe(true);
          expect(queue.delete(item.peer, item)).toBe(false);
          waiting = waiting.filter((other) => other !== item);
          if (!waiting.some(({ peer }) => peer === item.peer)) passedOver.delete(item.peer);
        }
      }
    }),
    { numRuns: 500 },
  );
});
