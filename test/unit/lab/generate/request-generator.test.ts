import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { parseQuerySizes, QuerySizeSequence } from '../../../../src/lab/generate/query-sizes.js';
import { RequestGenerator } from '../../../../src/lab/generate/request-generator.js';
import { type BagShape, type RequestShape, requestShapeOfSpec } from '../../../../src/lab/generate/request-shape.js';
import { SeededNumbers } from '../../../../src/lab/generate/synthetic-values.js';
import { modelSchema } from '../../../../src/model/spec.js';

const bag = (name: string, rest: Partial<BagShape>): BagShape => ({
  ...{ name, rows: 1000, table: 0, side: 'item', weighted: false, poolingFactor: 1, bagSizes: 'spread' },
  reuse: { type: 'zipf', exponent: 0 },
  ...rest,
});
const sizesOf = (offsets: ArrayLike<number>): number[] =>
  Array.from(offsets)
    .slice(1)
    .map((end, b) => end - offsets[b]!);

test('bags have the given mean size, spread or fixed, and one of the user or one per item', () => {
  const shape: RequestShape = {
    dense: [{ name: 'dense', dim: 3 }],
    bags: [
      ...[0.3, 1, 2.5, 20].map((poolingFactor) => bag(`spread ${poolingFactor}`, { poolingFactor })),
      bag('fixed', { poolingFactor: 7, bagSizes: 'fixed' }),
      bag('user', { side: 'user', weighted: true, poolingFactor: 4 }),
    ],
  };
  const items = 20_000;
  const { dense, sparse } = new RequestGenerator(shape, 1).next(items);
  expect(dense['dense']!.length).toBe(3 * items);
  for (const [poolingFactor, most] of [
    [0.3, 1],
    [1, 1],
    [2.5, 5],
    [20, 40],
  ] as const) {
    const sizes = sizesOf(sparse[`spread ${poolingFactor}`]!.offsets as Uint32Array);
    expect(sizes.length).toBe(items);
    expect(Math.abs(sizes.reduce((sum, size) => sum + size, 0) / items / poolingFactor - 1)).toBeLessThan(0.05);
    expect(Math.max(...sizes)).toBe(most);
    expect(Math.min(...sizes)).toBe(poolingFactor === 1 ? 1 : 0);
  }
  expect(new Set(sizesOf(sparse['fixed']!.offsets as Uint32Array))).toEqual(new Set([7]));
  const { offsets, indices, weights } = sparse['user']!;
  expect([offsets.length, weights!.length]).toEqual([2, indices.length]);
});

test('the same seed gives the same requests, another seed others', () => {
  const shape: RequestShape = { dense: [{ name: 'dense', dim: 2 }], bags: [bag('a', { poolingFactor: 5 }), bag('b', { weighted: true })] };
  const draw = (seed: number): unknown => {
    const generator = new RequestGenerator(shape, seed, { reuse: { type: 'trace', year: 2022 } });
    return [3, 1, 8].map((items) => generator.next(items));
  };
  expect(draw(4)).toEqual(draw(4));
  expect(draw(4)).not.toEqual(draw(5));
});

test('a bundle says what its requests look like', () => {
  const table = { name: 't', rows: 9, dim: 4, format: 'fp32', file: 't', tensor: 'weight' };
  const layers = [
    { type: 'embedding_bag', name: 'told', table: 't', weighted: true, poolingFactor: 2.5, side: 'user' },
    { type: 'embedding_bag', name: 'untold', table: 't' },
    { type: 'embedding_sequence', name: 'sequence', table: 't', maxLength: 5 },
    { type: 'sum', name: 'out', inputs: ['told', 'untold'] },
  ];
  const model = { terabag: 1, name: 'm', version: '1', dense: [], nets: [{ name: 'n', layers }], output: 'out', files: {} };
  const { bags } = requestShapeOfSpec(modelSchema.parse({ ...model, tables: [table] }));
  expect(bags).toMatchObject([
    { name: 'told', rows: 9, side: 'user', weighted: true, poolingFactor: 2.5 },
    { name: 'untold', rows: 9, side: 'item', weighted: false, poolingFactor: 1 },
    { name: 'sequence', rows: 9, side: 'item', weighted: false, poolingFactor: 5 },
  ]);
  const large = modelSchema.parse({ ...model, tables: [{ ...table, rows: 2 ** 31 }] });
  expect(() => requestShapeOfSpec(large)).toThrow(/2\^31 - 1 rows: t has 2147483648/);
});

test('query sizes are fixed, lognormal with the given median and sigma, or those of a file in turn', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-sizes-'));
  const draw = async (text: string, count: number): Promise<number[]> => {
    const sequence = new QuerySizeSequence(await parseQuerySizes(text), new SeededNumbers(3));
    return Array.from({ length: count }, () => sequence.next());
  };
  expect(await draw('17', 3)).toEqual([17, 17, 17]);
  const sizes = (await draw('lognormal:100,0.8,2000', 20_000)).sort((a, b) => a - b);
  expect(Math.abs(sizes[10_000]! - 100)).toBeLessThan(3);
  const logs = sizes.map(Math.log);
  const mean = logs.reduce((sum, value) => sum + value, 0) / logs.length;
  expect(Math.sqrt(logs.reduce((sum, value) => sum + (value - mean) ** 2, 0) / logs.length)).toBeCloseTo(0.8, 1);
  expect(sizes[0]).toBeGreaterThanOrEqual(1);
  expect(Math.max(...(await draw('lognormal:100,2,300', 1000)))).toBe(300);
  await writeFile(join(dir, 'sizes.txt'), '3\n\n1\n250\n');
  expect(await draw(`file:${join(dir, 'sizes.txt')}`, 5)).toEqual([3, 1, 250, 3, 1]);
  await writeFile(join(dir, 'bad.txt'), '3\nmany\n');
  await expect(parseQuerySizes(`file:${join(dir, 'bad.txt')}`)).rejects.toThrow(/line 2: many/);
  for (const text of [
    '',
    '0',
    '1.5',
    'x',
    '3,4',
    'lognormal:5',
    'lognormal:0,1',
    'lognormal:5,1,0',
    'lognormal:5,1,9,9',
    'file:gone',
    '0x10',
    '1e1',
    '+3',
    ' 3',
    'lognormal:0x5,1',
    'lognormal:5,,9',
    'lognormal:5, 1',
  ])
    await expect(parseQuerySizes(text), text).rejects.toMatchObject({ code: 'invalid_argument' });
  await rm(dir, { recursive: true });
});

test('bags of more ids than memory can hold are refused by name', () => {
  const clicks = bag('clicks', { poolingFactor: 2 ** 32 - 1, bagSizes: 'fixed' });
  expect(() => new RequestGenerator({ dense: [], bags: [clicks] }, 1).next(2)).toThrow(
    expect.objectContaining({
      code: 'invalid_argument',
      details: { field: 'poolingFactor', bag: 'clicks' },
      message: expect.stringMatching(/at most 2\^31 - 1 ids: clicks, poolingFactor 4294967295, bags 2$/),
    }),
  );
});
