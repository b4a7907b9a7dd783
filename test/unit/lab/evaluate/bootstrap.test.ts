import { expect, test } from 'vitest';
import { bootstrap } from '../../../../src/lab/evaluate/bootstrap.js';
import { SeededNumbers } from '../../../../src/lab/generate/synthetic-values.js';

const sum = (values: ArrayLike<number>): number => Array.from(values).reduce((total, value) => total + value, 0);

test('draws as many units as there are, and the same seed draws the same', async () => {
  const drawn = async (seed: number): Promise<string[]> => {
    const all: string[] = [];
    const work = (counts: Uint32Array) => {
      expect(sum(counts)).toBe(12);
      all.push(counts.join());
      return { mean: 0 };
    };
    await bootstrap(12, ['mean'], work, { resamples: 50, seed });
    return all;
  };
  const [first, again, other] = [await drawn(1), await drawn(1), await drawn(2)];
  expect(again).toEqual(first);
  expect(other).not.toEqual(first);
  expect(new Set(first).size).toBe(50);
});

test('intervals of a mean are as wide as those of its standard error', async () => {
  const numbers = new SeededNumbers(5);
  const values = Float64Array.from({ length: 400 }, () => numbers.uniform());
  const mean = sum(values) / values.length;
  const deviation = Math.sqrt(sum(values.map((value) => (value - mean) ** 2)) / values.length / values.length);
  const work = (counts: Uint32Array) => ({
    mean: sum(counts.map((count, at) => count * 1e6 * (values[at] as number))) / 1e6 / values.length,
  });
  for (const [confidence, z] of [
    [0.95, 1.96],
    [0.68, 0.994],
  ] as const) {
    const { mean: interval } = await bootstrap(values.length, ['mean'], work, { resamples: 2000, confidence });
    expect(interval.low).toBeGreaterThan(mean - 1.15 * z * deviation);
    expect(interval.low).toBeLessThan(mean - 0.85 * z * deviation);
    expect(interval.high).toBeLessThan(mean + 1.15 * z * deviation);
    expect(interval.high).toBeGreaterThan(mean + 0.85 * z * deviation);
  }
});

test('what cannot be worked out is drawn again, and refused where it hardly ever can', async () => {
  let calls = 0;
  const { value } = await bootstrap(5, ['value'], () => (calls++ % 3 === 0 ? null : { value: 1 }), { resamples: 20 });
  expect([value, calls > 20]).toEqual([{ low: 1, high: 1 }, true]);
  await expect(bootstrap(5, ['value'], () => null, { resamples: 20 })).rejects.toMatchObject({
    code: 'invalid_argument',
    details: { units: 5 },
  });
});

test('an interruption ends it', async () => {
  await expect(bootstrap(5, ['value'], () => ({ value: 1 }), { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'aborted' });
});
