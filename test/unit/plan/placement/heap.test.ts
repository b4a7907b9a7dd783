import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Heap } from '../../../../src/plan/placement/heap.js';

test('a heap gives what it holds in order, whatever the order of pushes and pops', () => {
  fc.assert(
    fc.property(fc.array(fc.option(fc.integer({ min: -20, max: 20 }))), (steps) => {
      const heap = new Heap((a, b) => a < b);
      const held: number[] = [];
      // null pops.
      for (const step of steps) {
        if (step !== null) {
          heap.push(step);
          held.push(step);
          held.sort((a, b) => a - b);
        } else expect(heap.pop()).toBe(held.shift());
        expect(heap.size).toBe(held.length);
      }
      for (const item of held) expect(heap.pop()).toBe(item);
      expect(heap.pop()).toBeUndefined();
    }),
  );
});
