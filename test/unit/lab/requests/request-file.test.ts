import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import { type ErrorCode, TerabagError } from '../../../../src/errors.js';
import { readRequests, writeRequests } from '../../../../src/lab/requests/request-file.js';
import { recordRequests } from '../../../../src/lab/requests/request-recorder.js';
import type { Prediction, Predictor, PredictRequest } from '../../../../src/predictor/predictor.js';
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

test('a damaged archive is an error that names the tensor, never a wrong request', async () => {
  const path = join(dir, 'damaged.safetensors');
  const i64 = (name: string, values: number[]) => ({
    ...{ name, dtype: 'I64', shape: [values.length] },
    data: new Uint8Array(BigInt64Array.from(values, BigInt).buffer),
  });
  const i32 = (name: string, values: number[]) => ({
    name,
    dtype: 'I32',
    shape: [values.length],
    data: new Uint8Array(Int32Array.from(values).buffer),
  });
  const good = {
    items: i32('items', [1, 1]),
    starts: i64('starts.sparse.a', [0, 1, 2]),
    offsets: i64('sparse.a.offsets', [0, 2, 3]),
    indices: i32('sparse.a.indices', [4, 5, 6]),
  };
  for (const [change, message] of [
    [{}, null],
    [{ starts: i64('starts.sparse.a', [0, 2, 1]) }, /starts\.sparse\.a falls at 2, 1/],
    [{ starts: i64('starts.sparse.a', [0, 1, 9]) }, /sparse\.a\.offsets has 3 values, needed are 10/],
    [{ starts: i64('starts.sparse.a', [0, -1, 2]) }, /starts\.sparse\.a falls at 1/],
    [{ offsets: i64('sparse.a.offsets', [0, 2, 7]) }, /sparse\.a\.indices has 3 values, needed are 7/],
    [{ offsets: i64('sparse.a.offsets', [2, 0, 3]) }, /falls at 1/],
    [{ indices: i32('sparse.a.ids', [4, 5, 6]) }, /sparse\.a\.indices is missing, expected I32,I64/],
  ] as const) {
    await writeSafetensors(path, Object.values({ ...good, ...change }), { metadata: { 'terabag.requests': '1' } });
    if (message === null) expect((await readAll(path)).map(plain)).toMatchObject([{ sparse: { a: { indices: [4, 5] } } }, {}]);
    else await expect(readAll(path)).rejects.toThrow(message);
  }
  await writeSafetensors(path, Object.values(good), { metadata: { 'terabag.requests': '2' } });
  await expect(readAll(path)).rejects.toThrow(/terabag\.requests is 2, expected 1/);
});

/** Answers with the number of items, or fails as it is told. */
class Answering implements Predictor {
  readonly modelHash = 'hash';
  fails: ErrorCode | null = null;
  async predict({ items = 0 }: PredictRequest): Promise<Prediction> {
    if (this.fails !== null) throw new TerabagError(this.fails, 'as told');
    return { scores: new Float32Array(items), items, scoreDim: 1, modelHash: this.modelHash };
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
