import fc from 'fast-check';
import { expect, test } from 'vitest';

interface Box {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}
const path = new URL('../../../../src/serve/page/browser/treemap.js', import.meta.url).href;
const { treemap } = (await import(path)) as { treemap: (weights: readonly number[], box: Box) => Box[] };

const EPSILON = 1e-6;

test('boxes have areas in proportion, lie within the whole and do not overlap', () => {
  fc.assert(
    fc.property(
      fc.array(fc.double({ min: 0.001, max: 1000, noNaN: true }), { minLength: 1, maxLength: 60 }),
      fc.integer({ min: 20, max: 2000 }),
      fc.integer({ min: 20, max: 2000 }),
      (given, width, height) => {
        const weights = [...given].sort((a, b) => b - a);
        const total = weights.reduce((a, b) => a + b, 0);
        const boxes = treemap(weights, { x: 3, y: 5, width, height });
        expect(boxes).toHaveLength(weights.length);
        for (const [at, box] of boxes.entries()) {
          expect(box.width * box.height).toBeCloseTo(((weights[at] as number) / total) * width * height, 3);
          expect(box.x).toBeGreaterThanOrEqual(3 - EPSILON);
          expect(box.y).toBeGreaterThanOrEqual(5 - EPSILON);
          expect(box.x + box.width).toBeLessThanOrEqual(3 + width + EPSILON);
          expect(box.y + box.height).toBeLessThanOrEqual(5 + height + EPSILON);
          for (const other of boxes.slice(0, at)) {
            const wide = Math.min(box.x + box.width, other.x + other.width) - Math.max(box.x, other.x);
            const high = Math.min(box.y + box.height, other.y + other.height) - Math.max(box.y, other.y);
            expect(wide > EPSILON && high > EPSILON).toBe(false);
          }
        }
      },
    ),
  );
});

test('alike weights give boxes that are nearly square', () => {
  for (const { width, height } of treemap(Array(12).fill(1) as number[], { x: 0, y: 0, width: 400, height: 300 }))
    expect(Math.max(width / height, height / width)).toBeLessThan(1.6);
});
