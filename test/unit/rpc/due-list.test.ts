import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Due, DueList } from '../../../src/rpc/due-list.js';
import { FakeClock } from './fakes.js';

class Item extends Due {
  constructor(readonly name: number) {
    super();
  }
}

const step = fc.oneof(
  fc.record({ kind: fc.constant('add' as const), inMs: fc.integer({ min: 0, max: 50 }) }),
  fc.record({ kind: fc.constant('remove' as const), nth: fc.nat(30) }),
  fc.record({ kind: fc.constantFrom('pass' as const, 'block' as const), ms: fc.integer({ min: 0, max: 40 }) }),
);

test.each(['foreground', 'background'] as const)(
  'what is due is told once and in order, by its time at the latest, with one timer: %s',
  (kind) => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const clock = new FakeClock();
        const told: number[] = [];
        const list = new DueList<Item>(
          clock,
          () => {
            for (let item = list.takeDue(clock.now()); item !== null; item = list.takeDue(clock.now())) told.push(item.name);
          },
          kind === 'background' ? 'background' : undefined,
        );
        /** What has to be told: kept sorted by a plain sort, equals in the order of their adding. */
        let waiting: { at: number; item: Item }[] = [];
        const expected: number[] = [];
        const timePasses = (): void => {
          const due = waiting.filter(({ at }) => at <= clock.now()).sort((a, b) => a.at - b.at);
          expected.push(...due.map(({ item }) => item.name));
          waiting = waiting.filter(({ at }) => at > clock.now());
        };
        for (const [n, each] of steps.entries()) {
          if (each.kind === 'add') {
            const item = new Item(n);
            list.add(item, clock.now() + each.inMs);
            waiting.push({ at: clock.now() + each.inMs, item });
          } else if (each.kind === 'remove') {
            const [removed] = waiting.splice(each.nth % Math.max(1, waiting.length), 1);
            if (removed !== undefined) list.remove(removed.item);
            // Once more changes nothing.
            if (removed !== undefined) list.remove(removed.item);
          } else {
            clock[each.kind](each.ms);
            timePasses();
          }
          expect(clock.numTimers).toBeLessThanOrEqual(1);
          if (waiting.length === 0 && kind === 'foreground') expect(clock.numTimers).toBe(0);
        }
        clock.pass(100);
        timePasses();
        expect(told).toEqual(expected);
        expect(list.first).toBeNull();
        list.close();
        expect(clock.numTimers).toBe(0);
      }),
      { numRuns: 500 },
    );
  },
);

test('what is due, and is not taken at once, can be taken later', () => {
  const clock = new FakeClock();
  let told = 0;
  const list = new DueList<Item>(clock, () => told++);
  list.add(new Item(1), clock.now() + 10);
  clock.pass(10);
  expect(told).toBe(1);
  expect(clock.numTimers).toBe(0);
  expect(list.takeDue(clock.now())?.name).toBe(1);
});
