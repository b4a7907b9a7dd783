import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import { type ErrorCode, TerabagError } from '../../../../src/errors.js';
import { readRequests, writeRequests } from '../../../../src/lab/requests/request-file.js';
import { recordRequests } from '../../../../src/lab/requests/request-recorder.js';
import type { ResolvedModel } from '../../../../src/model/graph.js';
import type { Prediction, Predictor, PredictRequest, Readiness } from '../../../../src/predictor/predictor.js';
import { readSafetensorsHeader, readTensor, writeSafetensors } from '../../../../src/tables/safetensors.js';
import { NO_STATS } from '../../../reference/no-stats.js';

const dir = mkdtempSync(join(tmpdir(), 'terabag-requests-'));
afterAll(() => rmSync(dir, { recursive: true }));

/** Plain numbers, so that requests compare whatever their arrays are. */
const plain = ({ items, dense, sparse }: PredictRequest): unknown => ({
  items,
  dense: Object.fromEntries(Object.entries(dense).map(([name, values]) => [name, Array.from(values)])),
  sparse: Object.fromEntries(
    Object.entries(sparse).map(([name, { indices, offsets, weights }]) => [
      name,
      { indices: Array.from(indices as number[], Number), offsets: Array.from(offsets), weights: weights && Array.from(weights) },
    ]),
  ),
});

async function readAll(path: string): Promise<PredictRequest[]> {
  const requests: PredictRequest[] = [];
  for await (const read of readRequests(path)) {
    if ('error' in read) throw read.error;
    requests.push(read.request);
  }
  return requests;
}

const float = fc.float({ noNaN: true, noDefaultInfinity: true }).map((value) => (value === 0 ? 0 : value));
const id = fc.oneof(fc.integer({ min: 0, max: 2 ** 31 - 1 }), fc.maxSafeNat());

/** Requests of one model: the same names throughout, names with dots among them. */
const requests = fc
  .record({
    dense: fc.uniqueArray(fc.constantFrom('dense', 'user.age', 'x'), { maxLength: 3 }),
    bags: fc.uniqueArray(fc.constantFrom('clicks', 'a.indices', 'b.weights.c'), { minLength: 1, maxLength: 3 }),
    weighted: fc.boolean(),
    wide: fc.boolean(),
  })
  .chain(({ dense, bags, weighted, wide }) => {
    const sizes = fc.array(fc.nat({ max: 4 }), { minLength: 1, maxLength: 4 });
    const bag = sizes.chain((counts) => {
      const length = counts.reduce((sum, count) => sum + count, 0);
      const offsets = [0];
      for (const count of counts) offsets.push((offsets.at(-1) as number) + count);
      const exactly = { minLength: length, maxLength: length };
      return fc.record({
        indices: fc.array(wide ? id : fc.integer({ min: 0, max: 1000 }), exactly),
        offsets: fc.constant(offsets),
        ...(weighted && { weights: fc.array(float, exactly) }),
      });
    });
    const request = fc.record(
      {
        items: fc.nat({ max: 9 }),
        dense: fc.record(Object.fromEntries(dense.map((name) => [name, fc.array(float, { maxLength: 6 })]))),
        sparse: fc.record(Object.fromEntries(bags.map((name) => [name, bag]))),
      },
      { requiredKeys: ['dense', 'sparse'] },
    );
    return fc.array(request, { minLength: 1, maxLength: 150 });
  });

test.each(['jsonl', 'safetensors'])('what is written as %s is read again as it was', async (kind) => {
  const path = join(dir, `round-trip.${kind}`);
  await fc.assert(
    fc.asyncProperty(requests, async (written) => {
      await writeRequests(path, written as PredictRequest[]);
      expect((await readAll(path)).map(plain)).toEqual((written as PredictRequest[]).map(plain));
    }),
    { numRuns: 60 },
  );
});

const example = (n: number): PredictRequest => ({
  items: 1 + n,
  dense: { dense: Float32Array.from({ length: 1 + n }, (_, item) => item + n / 4) },
  sparse: { clicks: { indices: [n, n + 1], offsets: [0, 2], weights: [1, 0.5] } },
});

test('an archive is plain safetensors: the tensors of all requests, and where each one starts', async () => {
  const path = join(dir, 'plain.safetensors');
  await writeRequests(path, [0, 1, 2].map(example));
  const header = await readSafetensorsHeader(path);
  const ints = async (name: string): Promise<number[]> =>
    Array.from(new BigInt64Array((await readTensor(header, header.tensors.get(name)!)).buffer), Number);
  expect(header.metadata).toEqual({ 'terabag.requests': '1' });
  expect(await ints('starts.dense.dense')).toEqual([0, 1, 3, 6]);
  expect(await ints('starts.sparse.clicks')).toEqual([0, 1, 2, 3]);
  expect(await ints('sparse.clicks.offsets')).toEqual([0, 2, 4, 6]);
  expect(header.tensors.get('sparse.clicks.indices')).toMatchObject({ dtype: 'I32', shape: [6] });
});

test('requests that differ in their features are refused by name; so are other file names', async () => {
  const path = join(dir, 'refused.safetensors');
  const other = { ...example(1), sparse: { views: example(1).sparse['clicks']! } };
  await expect(writeRequests(path, [example(0), other])).rejects.toThrow(/not in request 1: clicks/);
  await expect(writeRequests(path, [example(0), { ...other, sparse: { ...other.sparse, ...example(0).sparse } }])).rejects.toThrow(
    /request 1 has features that the first one has not/,
  );
  await expect(writeRequests(path, [])).rejects.toThrow(/no request to write/);
  await expect(writeRequests(join(dir, 'requests.txt'), [example(0)])).rejects.toThrow(/ends with \.jsonl or \.safetensors/);
});

const asArray = ({ dense, ...rest }: PredictRequest): PredictRequest => ({ ...rest, dense: { dense: Array.from(dense['dense']!) } });
const bag = (change: object): PredictRequest => ({
  ...asArray(example(0)),
  sparse: { clicks: { ...example(0).sparse['clicks']!, ...change } },
});

test.each([
  ['items beyond int32', { ...example(0), items: 2 ** 31 + 5 }, 'items'],
  ['items that are no integer', { ...example(0), items: 1.5 }, 'items'],
  ['items below 0', { ...example(0), items: -1 }, 'items'],
  ['a dense value beyond float32', { ...example(0), dense: { dense: [0, 1e39] } }, 'dense.dense', 1],
  ['a dense value that is a string', { ...example(0), dense: { dense: ['1'] } }, 'dense.dense', 0],
  ['a weight beyond float32', bag({ weights: [1, -1e39] }), 'sparse.clicks.weights', 1],
  ['a weight too few', bag({ weights: [1] }), 'sparse.clicks.weights'],
  ['offsets that do not start at 0', bag({ offsets: [1, 2] }), 'sparse.clicks.offsets', 0],
  ['offsets that fall', bag({ offsets: [0, 2, 1, 2] }), 'sparse.clicks.offsets', 2],
  ['offsets below 0', bag({ offsets: [0, -1, 2] }), 'sparse.clicks.offsets', 1],
  ['half an offset', bag({ offsets: [0, 0.5, 2] }), 'sparse.clicks.offsets', 1],
  ['offsets that end early', bag({ offsets: [0, 1] }), 'sparse.clicks.offsets'],
  ['no offsets', bag({ offsets: [] }), 'sparse.clicks.offsets'],
  ['an empty id', bag({ indices: ['1', ''] }), 'sparse.clicks.indices', 1],
  ['an id that is null', bag({ indices: [1, null] }), 'sparse.clicks.indices', 1],
  ['an id beyond int64', bag({ indices: [1, 2n ** 63n] }), 'sparse.clicks.indices', 1],
])('an archive cannot hold %s: it is refused with its place, and no file is left', async (_what, request, field, position?: number) => {
  const path = join(dir, 'held.safetensors');
  const error = await writeRequests(path, [example(1), request as PredictRequest]).then(
    () => null,
    (thrown: TerabagError) => thrown,
  );
  expect(error).toMatchObject({ code: 'invalid_argument', details: { field, ...(position !== undefined && { position }) } });
  expect(existsSync(path)).toBe(false);
  // One that is recorded keeps the others from nothing.
  const recorder = recordRequests(new Answering(), path);
  for (const asked of [example(1), request as PredictRequest, example(2)]) await recorder.predict(asked).catch(() => undefined);
  await recorder.close();
  expect((await readAll(path)).map(plain)).toEqual([example(1), example(2)].map(plain));
  rmSync(path);
});

test('weights that only a later request has are refused', async () => {
  const { indices, offsets } = example(0).sparse['clicks']!;
  const path = join(dir, 'later-weights.safetensors');
  await expect(
    writeRequests(path, [bag({ weights: undefined }), { ...example(1), sparse: { clicks: { indices, offsets } } }]),
  ).resolves.toBe(undefined);
  await expect(writeRequests(path, [{ ...example(1), sparse: { clicks: { indices, offsets } } }, example(1)])).rejects.toThrow(
    /weights of bag are in request 1 and not in the first one: clicks/,
  );
});

test('JSONL that its reader would refuse is not written, and the line is named', async () => {
  const path = join(dir, 'unreadable.jsonl');
  for (const [request, message] of [
    [bag({ indices: [1, 2 ** 53] }), /unreadable\.jsonl: line 2: .*position 1/],
    [bag({ offsets: ['0', '2'] }), /line 2: sparse\.clicks\.offsets/],
    [{ ...example(0), items: 1.5 }, /line 2: items/],
    [{ ...example(0), other: 1 }, /line 2: request has no field "other"/],
  ] as const) {
    await expect(writeRequests(path, [example(0), request as unknown as PredictRequest])).rejects.toThrow(message);
    expect(existsSync(path)).toBe(false);
  }
});

test('a key that stands twice in a line is refused with the line and the key; the next line counts', async () => {
  const path = join(dir, 'twice.jsonl');
  const line = (sparse: string): string => `{"dense":{},"sparse":{${sparse}}}\n`;
  const bagOf = (fields: string): string => `"a":{"indices":[1],${fields}"offsets":[0,1]}`;
  writeFileSync(
    path,
    line(bagOf('')) +
      line(bagOf('"indices":[2],')) +
      line(`${bagOf('')},${bagOf('')}`) +
      line(bagOf('"indi\\u0063es":["3","4"],')) +
      '{"dense":{},"items":1,"items":2,"sparse":{}}\n' +
      line('"b":{"indices":[[1,{"x":1,"x":2}]],"offsets":[0]}') +
      line(bagOf('')),
  );
  const read: (string | null)[] = [];
  for await (const one of readRequests(path)) read.push('error' in one ? one.error.message : null);
  expect(read).toEqual([
    null,
    expect.stringMatching(/^line 2: key stands twice: "indices" in sparse\.a, position \d+$/),
    expect.stringMatching(/^line 3: key stands twice: "a" in sparse,/),
    expect.stringMatching(/^line 4: key stands twice: "indi\\u0063es" in sparse\.a,/),
    expect.stringMatching(/^line 5: key stands twice: "items" in root,/),
    expect.stringMatching(/^line 6: key stands twice: "x" in sparse\.b\.indices\[0\]\[1\],/),
    null,
  ]);
});

test.each([
  ['{"items": 9007199254740993}', 'items has to be an integer between -2^53 and 2^53: 9007199254740992, written as 9007199254740993'],
  ['{"items": -9007199254740993}', 'items has to be an integer between -2^53 and 2^53: -9007199254740992, written as -9007199254740993'],
  ['{"items": 1e400}', 'items has to be an integer: Infinity, written as 1e400'],
  ['{"items": 1.5}', 'items has to be an integer: 1.5'],
  ['1e400', 'request has to be an object: Infinity, written as 1e400'],
  ['{"dense": 1e400}', 'dense has to be an object: Infinity, written as 1e400'],
  ['{"dense": {"a.b": 1e400}}', 'dense.a.b has to be an array: Infinity, written as 1e400'],
  ['{"dense": {"a.b": [2, 1e400]}}', 'dense.a.b has to be finite numbers, position 1: Infinity, written as 1e400'],
  [`{"items": 1${'0'.repeat(60)}}`, `items has to be an integer between -2^53 and 2^53: 1e+60, written as 1${'0'.repeat(39)}...`],
  [
    '{"sparse": {"a": {"indices": [1], "offsets": [0, 9007199254740993]}}}',
    'sparse.a.offsets has to be integers between -2^53 and 2^53, position 1: 9007199254740992, written as 9007199254740993',
  ],
])('a number of a line that is refused is told as it is written: %s', async (line, message) => {
  const path = join(dir, 'digits.jsonl');
  writeFileSync(path, `${line}\n`);
  await expect(readAll(path)).rejects.toThrow(expect.objectContaining({ message: `line 1: ${message}` }));
});

const ARRAY_OF = { F32: Float32Array, I32: Int32Array, U32: Uint32Array, I64: BigInt64Array, U64: BigUint64Array } as const;
type Dtype = keyof typeof ARRAY_OF;

/** A tensor of one dim, unless the shape is given; integers of 64 bits are given as numbers too. */
function tensor(name: string, dtype: Dtype, values: readonly (number | bigint)[], shape = [values.length]) {
  const array =
    dtype === 'I64' || dtype === 'U64'
      ? (ARRAY_OF[dtype] as typeof BigInt64Array).from(values.map(BigInt))
      : (ARRAY_OF[dtype] as typeof Float32Array).from(values.map(Number));
  return { name, dtype, shape, data: new Uint8Array(array.buffer) };
}

const writeArchive = (path: string, tensors: readonly ReturnType<typeof tensor>[], version = '1') =>
  writeSafetensors(path, tensors, { metadata: { 'terabag.requests': version } });

test('a damaged archive is an error that names the tensor, the position and the value, never a wrong request', async () => {
  const path = join(dir, 'damaged.safetensors');
  const good = {
    items: tensor('items', 'I32', [1, -1]),
    denseStarts: tensor('starts.dense.d', 'I64', [0, 1, 3]),
    dense: tensor('dense.d', 'F32', [7, 8, 9]),
    starts: tensor('starts.sparse.a', 'I64', [0, 1, 2]),
    offsets: tensor('sparse.a.offsets', 'I64', [0, 2, 3]),
    indices: tensor('sparse.a.indices', 'I32', [4, 5, 6]),
    weights: tensor('sparse.a.weights', 'F32', [1, 2, 3]),
  };
  const requests = [
    { items: 1, dense: { d: [7] }, sparse: { a: { indices: [4, 5], offsets: [0, 2], weights: [1, 2] } } },
    { items: undefined, dense: { d: [8, 9] }, sparse: { a: { indices: [6], offsets: [0, 1], weights: [3] } } },
  ];
  const places = (name: string, ...values: (number | bigint)[]) => tensor(name, 'I64', values);
  for (const [change, message, details] of [
    [{}, null],
    [{ starts: places('starts.sparse.a', 0, 3, 2) }, /starts\.sparse\.a has at 1 3, expected at most 2, one less than/, { position: 1 }],
    [
      { starts: places('starts.sparse.a', 0, 1, 9) },
      /starts\.sparse\.a has at 2 9, expected 2, one less than the length of sparse\.a\.offsets/,
    ],
    [{ starts: places('starts.sparse.a', 0, 1, 1) }, /starts\.sparse\.a has at 2 1, expected 2/],
    [{ starts: places('starts.sparse.a', 0, -1, 2) }, /starts\.sparse\.a has at 1 -1, expected 0 or more, since places never fall/],
    [{ starts: places('starts.sparse.a', 1, 1, 2) }, /starts\.sparse\.a has at 0 1, expected 0/, { field: 'starts.sparse.a', position: 0 }],
    [{ starts: places('starts.sparse.a', 0, 2) }, /starts\.sparse\.a has 2 values, expected 3, one more than items has/],
    [{ starts: places('starts.sparse.a', 0, 1, 2, 2) }, /starts\.sparse\.a has 4 values, expected 3/, { field: 'starts.sparse.a' }],
    [{ offsets: places('sparse.a.offsets', 0, 2, 7) }, /sparse\.a\.offsets has at 2 7, expected 3, the length of sparse\.a\.indices/],
    [{ offsets: places('sparse.a.offsets', 0, 1, 2) }, /sparse\.a\.offsets has at 2 2, expected 3/],
    [{ offsets: places('sparse.a.offsets', 1, 2, 3) }, /sparse\.a\.offsets has at 0 1, expected 0/],
    [{ offsets: places('sparse.a.offsets', -1, 2, 3) }, /sparse\.a\.offsets has at 0 -1, expected 0/],
    [{ offsets: places('sparse.a.offsets', 0, 2n ** 53n + 1n, 3) }, /has at 1 9007199254740993, expected at most 3/, { position: 1 }],
    [{ offsets: places('sparse.a.offsets', 0, 2, 2n ** 53n + 1n) }, /has at 2 9007199254740993, expected 3/],
    [{ offsets: places('sparse.a.offsets', 0, 3) }, /starts\.sparse\.a has at 2 2, expected 1/],
    [{ offsets: places('sparse.a.offsets') }, /sparse\.a\.offsets has no values, expected one per bag and one more/],
    [{ indices: tensor('sparse.a.ids', 'I32', [4, 5, 6]) }, /sparse\.a\.indices is missing, expected I32, U32, I64, U64/],
    [{ indices: tensor('sparse.a.indices', 'F32', [4, 5, 6]) }, /sparse\.a\.indices is F32, expected I32/],
    [{ indices: tensor('sparse.a.indices', 'I32', [4, 5, 6, 7]) }, /sparse\.a\.offsets has at 2 3, expected 4/],
    [
      { weights: tensor('sparse.a.weights', 'F32', [1, 2, 3, 4]) },
      /sparse\.a\.weights has 4 values, expected 3, the length of sparse\.a\.indices/,
    ],
    [{ weights: tensor('sparse.a.weights', 'F32', [1, 2]) }, /sparse\.a\.weights has 2 values, expected 3/, { field: 'sparse.a.weights' }],
    [{ weights: tensor('sparse.a.weight', 'F32', [1, 2, 3]) }, /sparse\.a\.weight is none of its tensors/],
    [{ starts: tensor('other', 'F32', []) }, /starts\.sparse\.a is missing, expected with sparse\.a\.offsets/],
    [{ denseStarts: tensor('other', 'F32', []) }, /starts\.dense\.d is missing, expected with dense\.d/],
    [{ denseStarts: tensor('starts.d', 'I64', [0, 1, 3]), dense: tensor('other', 'F32', []) }, /starts\.d is none of its tensors/],
    [{ denseStarts: places('starts.dense.d', 0, 1, 2) }, /starts\.dense\.d has at 2 2, expected 3, the length of dense\.d/],
    [{ dense: tensor('dense.d', 'F32', [7, 8, 9], [1, 3]) }, /dense\.d has shape \[1, 3\], expected one dim/],
    [
      { items: tensor('items', 'I32', [1, -7]) },
      /items has at 1 -7, expected a number of items, or -1 for none/,
      { field: 'items', position: 1 },
    ],
    [{ items: tensor('items', 'I32', [1], []) }, /items has shape \[\], expected one dim/],
    [{ items: tensor('items', 'I32', [1, 1], [1, 2]) }, /items has shape \[1, 2\], expected one dim/],
    [{ items: tensor('items', 'I32', []) }, /starts\.dense\.d has 3 values, expected 1, one more than items has/],
    [{ items: tensor('items', 'F32', [1, 1]) }, /items is F32, expected I32, I64/],
  ] as const) {
    await writeArchive(path, Object.values({ ...good, ...change }));
    if (message === null) expect((await readAll(path)).map(plain)).toEqual(requests);
    else {
      const error: TerabagError = await readAll(path).then(
        () => expect.fail(`accepted, expected ${message}`),
        (thrown) => thrown,
      );
      expect(error.message).toMatch(message);
      expect(error).toMatchObject({ code: 'invalid_argument', details: { path, ...details } });
    }
  }
  await writeArchive(path, Object.values(good), '2');
  await expect(readAll(path)).rejects.toThrow(/terabag\.requests is 2, expected 1/);
});

test('an archive of no requests is read as none', async () => {
  const path = join(dir, 'none.safetensors');
  const empty = [
    ['starts.sparse.a', 'I64', [0]] as const,
    ['sparse.a.offsets', 'I64', [0]] as const,
    ['sparse.a.indices', 'I32', []] as const,
  ];
  await writeArchive(path, [tensor('items', 'I32', []), ...empty.map(([name, dtype, values]) => tensor(name, dtype, values))]);
  expect(await readAll(path)).toEqual([]);
});

/** What the format says, in plain loops: the requests, or null when it is broken. */
function decoded(tensors: ReadonlyMap<string, readonly number[]>): PredictRequest[] | null {
  const of = (name: string): readonly number[] => tensors.get(name) ?? [];
  const sound = (places: readonly number[], end: number, length = places.length): boolean =>
    places.length === length &&
    places[0] === 0 &&
    places.at(-1) === end &&
    places.every((place, at) => at === 0 || place >= places[at - 1]!);
  const items = of('items');
  if (items.some((count) => count < -1)) return null;
  const named = (kind: string): string[] => [...tensors.keys()].flatMap((name) => (name.startsWith(kind) ? [name.slice(kind.length)] : []));
  for (const name of named('starts.dense.'))
    if (!sound(of(`starts.dense.${name}`), of(`dense.${name}`).length, items.length + 1)) return null;
  for (const name of named('starts.sparse.')) {
    const [offsets, ids, weights] = [of(`sparse.${name}.offsets`), of(`sparse.${name}.indices`), tensors.get(`sparse.${name}.weights`)];
    if (!sound(of(`starts.sparse.${name}`), offsets.length - 1, items.length + 1) || !sound(offsets, ids.length)) return null;
    if (weights !== undefined && weights.length !== ids.length) return null;
  }
  return items.map((count, r) => {
    const dense = named('starts.dense.').map((name) => {
      const starts = of(`starts.dense.${name}`);
      return [name, of(`dense.${name}`).slice(starts[r], starts[r + 1])];
    });
    const sparse = named('starts.sparse.').map((name) => {
      const [first = 0, last = 0] = of(`starts.sparse.${name}`).slice(r, r + 2);
      const offsets = of(`sparse.${name}.offsets`).slice(first, last + 1);
      const part = (field: string) => tensors.get(`sparse.${name}.${field}`)?.slice(offsets[0], offsets.at(-1));
      const bags = { indices: part('indices'), offsets: offsets.map((offset) => offset - offsets[0]!), weights: part('weights') };
      return [name, bags];
    });
    return { items: count < 0 ? undefined : count, dense: Object.fromEntries(dense), sparse: Object.fromEntries(sparse) } as PredictRequest;
  });
}

test('whatever is changed in an archive, its requests are those of the format, or it is refused', async () => {
  const path = join(dir, 'mutated.safetensors');
  const change = fc.record({
    tensor: fc.nat(),
    at: fc.nat(),
    value: fc.oneof(fc.integer({ min: -9, max: 9 }), fc.integer({ min: -2, max: 300 })),
    how: fc.constantFrom('set', 'add', 'insert', 'append', 'remove', 'clear'),
  });
  let refused = 0;
  await fc.assert(
    fc.asyncProperty(requests, fc.array(change, { minLength: 1, maxLength: 2 }), async (written, changes) => {
      await writeRequests(path, written as PredictRequest[]);
      const header = await readSafetensorsHeader(path);
      const tensors = new Map<string, { dtype: Dtype; values: number[] }>();
      for (const [name, info] of header.tensors) {
        const dtype = info.dtype as Dtype;
        const values = new ARRAY_OF[dtype]((await readTensor(header, info)).buffer);
        tensors.set(name, { dtype, values: Array.from(values as Float32Array, Number) });
      }
      // Any other values of ids and dense features are right, too.
      const mutable = [...tensors].filter(([name]) => /^items$|^starts\.|offsets$|weights$/.test(name));
      for (const { tensor, at, value, how } of changes) {
        const { values } = mutable[tensor % mutable.length]![1];
        const place = values.length === 0 ? 0 : at % values.length;
        if (how === 'set') values.splice(place, 1, value);
        else if (how === 'add') values.splice(place, 1, (values[place] ?? 0) + Math.sign(value));
        else if (how === 'insert') values.splice(place, 0, values[place] ?? value);
        else if (how === 'append') values.push(values.at(-1) ?? value);
        else values.splice(how === 'remove' ? place : 0, how === 'remove' ? 1 : values.length);
      }
      await writeArchive(
        path,
        [...tensors].map(([name, { dtype, values }]) => tensor(name, dtype, values)),
      );
      const inFile = (dtype: Dtype, values: number[]) => (dtype === 'F32' ? values.map(Math.fround) : values);
      const expected = decoded(new Map([...tensors].map(([name, { dtype, values }]) => [name, inFile(dtype, values)])));
      const read = await readAll(path).catch((error: TerabagError) => {
        expect(error).toMatchObject({ code: 'invalid_argument', details: { path, field: expect.any(String) } });
        return null;
      });
      if (expected === null) refused++;
      expect(read?.map(plain) ?? null).toEqual(expected?.map(plain) ?? null);
    }),
    { numRuns: 120 },
  );
  expect(refused).toBeGreaterThan(20);
});

test('ids and places are taken as I32, U32, I64 and U64, items as I32 and I64, in files of one request and of many', async () => {
  const path = join(dir, 'dtypes.safetensors');
  const [d, weights] = [tensor('dense.d', 'F32', [1, 2], [2, 1]), tensor('sparse.a.weights', 'F32', [1, 2, 3])];
  const expected = { items: 2, dense: { d: [1, 2] }, sparse: { a: { indices: [4, 5, 6], offsets: [0, 2, 3], weights: [1, 2, 3] } } };
  for (const dtype of ['I32', 'U32', 'I64', 'U64'] as const) {
    const bags = [tensor('sparse.a.indices', dtype, [4, 5, 6]), tensor('sparse.a.offsets', dtype, [0, 2, 3]), weights];
    for (const items of ['I32', 'I64'] as const) {
      for (const shape of [[1], []]) {
        await writeSafetensors(path, [tensor('items', items, [2], shape), d, ...bags]);
        const [one] = await readAll(path);
        expect({ ...(plain(one!) as object), sparse: { a: { ...expected.sparse.a } } }).toEqual(expected);
        expect(Array.from(one!.sparse['a']!.offsets as number[], Number)).toEqual([0, 2, 3]);
      }
      const starts = [tensor('starts.dense.d', dtype, [0, 2]), tensor('starts.sparse.a', dtype, [0, 2])];
      await writeArchive(path, [tensor('items', items, [2]), { ...d, shape: [2] }, ...starts, ...bags]);
      expect((await readAll(path)).map(plain)).toEqual([expected]);
    }
  }
  // Beyond int64 they are told with their digits when the request is checked.
  const huge = [2n ** 64n - 1n, 2n];
  const offsets = tensor('sparse.a.offsets', 'U64', [0, 2]);
  await writeSafetensors(path, [tensor('sparse.a.indices', 'U64', huge), offsets]);
  expect((await readAll(path))[0]!.sparse['a']!.indices).toEqual(huge);
  await writeArchive(path, [
    tensor('items', 'I32', [1]),
    tensor('sparse.a.indices', 'U64', huge),
    offsets,
    tensor('starts.sparse.a', 'U64', [0, 1]),
  ]);
  expect((await readAll(path))[0]!.sparse['a']!.indices).toEqual(huge);
});

test.each([
  ['two values', tensor('items', 'I32', [1, 1]), /items has to be one integer below 2\^53: shape \[2\]/],
  ['lost digits', tensor('items', 'I64', [2n ** 53n + 1n]), /items has to be one integer below 2\^53: 9007199254740993/],
  ['floats', tensor('items', 'F32', [1]), /tensor has to be I32 or I64: items is F32/],
])('items of a safetensors request that are no integer are refused: %s', async (_what, items, message) => {
  const path = join(dir, 'items.safetensors');
  await writeSafetensors(path, [items]);
  await expect(readAll(path)).rejects.toThrow(
    expect.objectContaining({ message: expect.stringMatching(message), details: { path, field: 'items' } }),
  );
});

/** Answers with the number of items, or fails as it is told. */
class Answering implements Predictor {
  readonly modelHash = 'hash';
  readonly model: ResolvedModel = { dense: [], bags: [], layers: [], output: 0, outputDim: 1 };
  fails: ErrorCode | null = null;
  async predict({ items = 0 }: PredictRequest): Promise<Prediction> {
    if (this.fails !== null) throw new TerabagError(this.fails, 'as told');
    return { scores: new Float32Array(items), items, scoreDim: 1, modelHash: this.modelHash };
  }
  readiness(): Readiness {
    return { ready: true, missing: [] };
  }
  stats(): typeof NO_STATS {
    return { ...NO_STATS, requests: 1 };
  }
  async close(): Promise<void> {}
}

test.each(['jsonl', 'safetensors'])(
  'a recording (%s) holds what was asked, though the caller reuses its arrays; malformed requests are left out',
  async (kind) => {
    const path = join(dir, `recorded.${kind}`);
    const predictor = new Answering();
    const recorder = recordRequests(predictor, path);
    const asked = [0, 1, 2].map(example);
    const expected = asked.map(plain);
    for (const request of asked) {
      const answer = recorder.predict(request);
      (request.dense['dense'] as Float32Array).fill(99);
      expect((await answer).items).toBe(request.items);
    }
    predictor.fails = 'index_out_of_range';
    await expect(recorder.predict(example(5))).rejects.toThrow('as told');
    predictor.fails = 'deadline_exceeded';
    await expect(recorder.predict(example(3))).rejects.toThrow('as told');
    await expect(recorder.predict(null as unknown as PredictRequest)).rejects.toThrow();
    expect(recorder.stats()).toMatchObject({ requests: 1, recordedRequests: 4, unrecordedRequests: 2 });
    await recorder.close();
    expect((await readAll(path)).map(plain)).toEqual([...expected, plain(example(3))]);
  },
);

test('a recording as JSONL leaves out what JSON has no number for, and says so; safetensors keep it', async () => {
  const odd = { ...example(0), dense: { dense: Float32Array.of(Number.NaN) } };
  for (const [kind, kept] of [
    ['jsonl', 1],
    ['safetensors', 3],
  ] as const) {
    const path = join(dir, `odd.${kind}`);
    const warnings: string[] = [];
    const recorder = recordRequests(new Answering(), path, { onWarning: ({ message }) => warnings.push(message) });
    for (const request of [odd, example(1), { ...odd, dense: { dense: Float32Array.of(Number.POSITIVE_INFINITY) } }])
      await recorder.predict(request);
    expect(recorder.stats()).toMatchObject({ recordedRequests: kept, unrecordedRequests: 3 - kept });
    await recorder.close();
    expect(await readAll(path)).toHaveLength(kept);
    expect(warnings).toEqual(kept === 3 ? [] : [expect.stringMatching(/NaN or infinity are left out.*odd\.jsonl/)]);
  }
  const refused = join(dir, 'odd-refused.jsonl');
  await expect(writeRequests(refused, [odd])).rejects.toThrow(/JSONL has no NaN/);
  expect(existsSync(refused)).toBe(false);
});

test('a recording takes the share that it is told, ends when it is full, and says so once', async () => {
  const path = join(dir, 'full.safetensors');
  const warnings: TerabagError[] = [];
  let n = 0;
  const options = { share: 0.25, maxBytes: 400, random: () => (n++ % 4) / 4, onWarning: (warning: TerabagError) => warnings.push(warning) };
  const recorder = recordRequests(new Answering(), path, options);
  for (let request = 0; request < 200; request++) await recorder.predict(example(request % 8));
  await recorder.close();
  const kept = await readAll(path);
  // Every fourth request, of 28 to 44 bytes each.
  expect(kept.map(({ items }) => items)).toEqual(Array.from(kept, (_, k) => 1 + ((4 * k) % 8)));
  expect(kept.length).toBeGreaterThan(8);
  expect(recorder.stats()['recordedBytes']).toBeLessThanOrEqual(400);
  expect(warnings.map(({ code }) => code)).toEqual(['does_not_fit']);
});

test('a recording that cannot be written is a warning, and a callback that throws is none of the requests business', async () => {
  writeFileSync(join(dir, 'file'), '');
  const warnings: string[] = [];
  const recorder = recordRequests(new Answering(), join(dir, 'file/x.jsonl'), {
    onWarning: ({ message }) => {
      warnings.push(message);
      throw new Error('callback');
    },
  });
  await recorder.predict(example(1));
  await recorder.close();
  expect(warnings).toEqual([expect.stringMatching(/ENOTDIR/)]);
  expect(() => recordRequests(new Answering(), 'x.txt')).toThrow(/ends with/);
  expect(() => recordRequests(new Answering(), 'x.jsonl', { share: 2 })).toThrow(/share has to be/);
});
