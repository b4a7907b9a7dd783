import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Choice, choicesOf, fitSelection, orderedSteps, selectSteps } from '../../../../src/lab/choose-formats/steps.js';

/** A table of 100 bytes, and smaller choices of it. */
const unit = (...choices: readonly (readonly [bytes: number, loss: number])[]): Choice[] => [
  { bytes: 100, loss: 0 },
  ...choices.map(([bytes, loss]) => ({ bytes, loss })),
];
const anyUnit = fc
  .array(fc.tuple(fc.integer({ min: 1, max: 99 }), fc.integer({ min: -2, max: 30 })), { maxLength: 4 })
  .map((choices) => unit(...choices));
const units = fc.array(anyUnit, { minLength: 1, maxLength: 5 });
const bytesOf = (all: readonly (readonly Choice[])[], chosen: readonly number[]): number =>
  chosen.reduce((sum, at, u) => sum + (all[u]?.[at]?.bytes ?? 0), 0);
const lossOf = (all: readonly (readonly Choice[])[], chosen: readonly number[]): number =>
  chosen.reduce((sum, at, u) => sum + Math.max(0, all[u]?.[at]?.loss ?? 0), 0);

test('what saves most for its loss comes first, and what others enclose does not come', () => {
  const [half, int8, int4] = [
    [50, 1],
    [25, 2],
    [12, 30],
  ] as const;
  const steps = orderedSteps([unit(half, int8, int4), unit([50, 0], [25, 10])]);
  expect(steps.map(({ unit, to, savedBytes, loss }) => [unit, to, savedBytes, loss])).toEqual([
    [1, 1, 50, 0],
    // 75 bytes for 2: half lies on the way.
    [0, 1, 50, 1],
    [0, 2, 25, 1],
    [1, 2, 25, 10],
    [0, 3, 13, 28],
  ]);
  // No larger for a higher loss, and below the line from the first to the last.
  expect(orderedSteps([unit([60, 5], [70, 6], [20, 6])]).map(({ to }) => to)).toEqual([3]);
});

test('a choice that measured better than as it is pays for no other', () => {
  const steps = orderedSteps([unit([50, -40]), unit([50, 30])]);
  expect(steps.map(({ unit, loss }) => [unit, loss])).toEqual([
    [0, 0],
    [1, 30],
  ]);
  expect(selectSteps(steps, 20)).toEqual([0]);
});

test("every prefix is the least bytes for its loss, and a unit's steps come in their order", () => {
  fc.assert(
    fc.property(units, (all) => {
      const steps = orderedSteps(all);
      const combinations = all.reduce<number[][]>(
        (some, choices) => some.flatMap((chosen) => choices.map((_, at) => [...chosen, at])),
        [[]],
      );
      for (let end = 0; end <= steps.length; end++) {
        const prefix = Array.from({ length: end }, (_, at) => at);
        const chosen = choicesOf(steps, prefix, all.length);
        const [bytes, loss] = [bytesOf(all, chosen), lossOf(all, chosen)];
        expect(prefix.reduce((sum, at) => sum + (steps[at]?.loss ?? 0), 0)).toBeCloseTo(loss, 9);
        expect(prefix.reduce((sum, at) => sum + (steps[at]?.savedBytes ?? 0), 0)).toBe(100 * all.length - bytes);
        // Steps that cost nothing all come first: before their end less is saved for the same.
        if (steps[end]?.loss === 0) continue;
        for (const other of combinations) if (lossOf(all, other) <= loss) expect(bytesOf(all, other)).toBeGreaterThanOrEqual(bytes);
      }
    }),
  );
});

test('what is found is within the bound as it is measured, whatever is measured', async () => {
  await fc.assert(
    fc.asyncProperty(units, fc.integer({ min: 0, max: 60 }), fc.double({ min: 0.2, max: 4, noNaN: true }), async (all, bound, factor) => {
      const steps = orderedSteps(all);
      const measured = new Map<string, number>();
      // Losses together are not their sum.
      const measure = async (selection: readonly number[]): Promise<number> => {
        const loss = factor * lossOf(all, choicesOf(steps, selection, all.length));
        measured.set(selection.join(), loss);
        return loss;
      };
      const { selection, loss } = await fitSelection(steps, bound, measure);
      expect(loss).toBeLessThanOrEqual(bound);
      if (selection.length > 0) expect(measured.get(selection.join())).toBe(loss);
      // A unit's step never comes without those before it.
      for (const at of selection)
        for (let before = 0; before < at; before++) if (steps[before]?.unit === steps[at]?.unit) expect(selection).toContain(before);
      if (factor === 1) expect(selection).toEqual(selectSteps(steps, bound));
    }),
  );
});

test('steps back when all together lose more than their sum, and tries more when less', async () => {
  const all = [unit([50, 1]), unit([50, 2]), unit([50, 3])];
  const steps = orderedSteps(all);
  const sumOf = (selection: readonly number[]): number => selection.reduce((sum, at) => sum + (steps[at]?.loss ?? 0), 0);
  expect(await fitSelection(steps, 6, async (selection) => sumOf(selection) * 1.5)).toEqual({ selection: [0, 1], loss: 4.5 });
  expect(await fitSelection(steps, 4, async (selection) => sumOf(selection) / 2)).toEqual({ selection: [0, 1, 2], loss: 3 });
  expect(await fitSelection(steps, 0.5, async () => 9)).toEqual({ selection: [], loss: 0 });
});
