import { rm } from 'node:fs/promises';
import { connect as connectSocket } from 'node:net';
import { deflateSync, gunzipSync, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openLocal, type Predictor, type ServingServer, serve } from '../../../src/index.js';
import { type ClientTensor, inferBody, int64, readAnswer, tensorsOf } from '../../reference/infer-body.js';
import { DENSE, random, type SmallModel, smallRequest, writeSmallModel } from '../../reference/small-model.js';

const DIMS = { dense: DENSE };
let model: SmallModel;
let predictor: Predictor;
let server: ServingServer;
beforeAll(async () => {
  model = await writeSmallModel(7);
  predictor = await openLocal(model.dir, { deadlineMs: 10_000 });
  server = await serve([{ name: 'small', version: '3', predictor }], { http: '127.0.0.1:0', maxBody: 2 ** 20 });
  expect(server.ready).toBe(true);
});
afterAll(async () => {
  await server.close();
  await predictor.close();
  await rm(model.dir, { recursive: true });
});

const post = (path: string, body: Buffer | string, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(server.url + path, { method: 'POST', body, headers });
// biome-ignore lint/suspicious/noExplicitAny: parsed JSON of the server
const json = (response: Response): Promise<any> => response.json() as Promise<any>;
const infer = (tensors: readonly ClientTensor[], more: object = {}): Promise<Response> => {
  const { body, headers } = inferBody(tensors, () => true, more);
  return post('/v2/models/small/infer', body, headers);
};
const small = (items = 3) => smallRequest(random(items), items);
const tensors = (items = 3): ClientTensor[] => tensorsOf(small(items), DIMS);
const scoresOf = async (items = 3): Promise<Float32Array> => (await predictor.predict(small(items))).scores;

test('scores have the bits of predict, whatever is binary and whatever JSON, of any order and number of items', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 20 }),
      fc.array(fc.boolean(), { minLength: 8, maxLength: 8 }),
      fc.infiniteStream(fc.nat()),
      fc.boolean(),
      async (items, binary, shuffle, binaryOutput) => {
        const given = tensors(items)
          .map((tensor) => ({ tensor, key: shuffle.next().value as number }))
          .sort((a, b) => a.key - b.key)
          .map(({ tensor }) => tensor);
        const { body, headers } = inferBody(given, (tensor) => binary[given.indexOf(tensor)] === true, {
          parameters: { binary_data_output: binaryOutput },
        });
        const response = await post('/v2/models/small/infer', body, headers);
        expect(response.status).toBe(200);
        const { json, outputs } = await readAnswer(response);
        expect(outputs).toEqual({ scores: await scoresOf(items) });
        expect(json).toMatchObject({
          model_name: 'small',
          model_version: '3',
          outputs: [{ name: 'scores', datatype: 'FP32', shape: [items, 1] }],
        });
      },
    ),
    { numRuns: 60 },
  );
});

test('values that are not aligned are read right: an odd number of bytes before 64-bit ids', async () => {
  const given = tensors();
  const odd: ClientTensor = {
    name: 'sum.lengths',
    datatype: 'UINT8',
    shape: [3],
    values: given.find(({ name }) => name === 'sum.lengths')!.values,
  };
  const { outputs } = await readAnswer(await infer([odd, ...given.filter(({ name }) => name !== 'sum.lengths')]));
  expect(outputs['scores']).toEqual(await scoresOf());
});

test('an id comes back, outputs come as each is asked for, and one alone is no list of all', async () => {
  const { body, headers } = inferBody(tensors(), () => true, {
    id: 'r-1',
    outputs: [{ name: 'scores', parameters: { binary_data: true } }],
  });
  const response = await post('/v2/models/small/versions/3/infer', body, headers);
  expect(response.headers.get('content-type')).toBe('application/octet-stream');
  const { json, outputs } = await readAnswer(response);
  expect(json.id).toBe('r-1');
  expect(outputs['scores']).toEqual(await scoresOf());
  const plain = await infer(tensors(), { id: '', outputs: [{ name: 'scores' }] });
  expect(plain.headers.get('content-type')).toBe('application/json');
  expect((await readAnswer(plain)).json).not.toHaveProperty('id');
});

test.each([
  ['gzip', gzipSync],
  ['deflate', deflateSync],
] as const)('bodies compressed with %s are read, also where binary values follow the header', async (encoding, compress) => {
  const { body, headers } = inferBody(tensors(), () => true);
  const response = await post('/v2/models/small/infer', compress(body), { ...headers, 'content-encoding': encoding });
  expect((await readAnswer(response)).outputs['scores']).toEqual(await scoresOf());
});

test('an answer is compressed where that is asked for and worth it, and its header length is that of what was compressed', async () => {
  const items = 600;
  const { body, headers } = inferBody(tensors(items), () => true, { parameters: { binary_data_output: true } });
  const raw = await new Promise<Buffer>((resolve, reject) => {
    const socket = connectSocket(Number(new URL(server.url).port), '127.0.0.1');
    const chunks: Buffer[] = [];
    socket.on('data', (chunk) => chunks.push(chunk)).on('error', reject);
    socket.on('end', () => resolve(Buffer.concat(chunks)));
    const lines = Object.entries({
      ...headers,
      host: 'x',
      connection: 'close',
      'accept-encoding': 'br;q=1, gzip',
      'content-length': body.length,
    });
    socket.write(`POST /v2/models/small/infer HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}`).join('\r\n')}\r\n\r\n`);
    socket.write(body);
  });
  const at = raw.indexOf('\r\n\r\n');
  const head = raw.toString('latin1', 0, at).toLowerCase();
  expect(head).toContain('content-encoding: gzip');
  const length = Number(/inference-header-content-length: (\d+)/.exec(head)?.[1]);
  const whole = gunzipSync(raw.subarray(at + 4));
  expect(JSON.parse(whole.toString('utf8', 0, length)).outputs[0].parameters.binary_data_size).toBe(items * 4);
  expect(new Float32Array(new Uint8Array(whole.subarray(length)).buffer)).toEqual(await scoresOf(items));
});

describe('what is wrong is refused with its status, and names the tensor or the field', () => {
  const without = (name: string): ClientTensor[] => tensors().filter((tensor) => tensor.name !== name);
  const withTensor = (tensor: ClientTensor): ClientTensor[] => [...without(tensor.name), tensor];
  const refusals: readonly (readonly [string, ClientTensor[], object, number, RegExp])[] = [
    ['a missing input', without('dense'), {}, 400, /^input dense is missing/],
    ['an unknown one', [...tensors(), int64('clicks', [1])], {}, 400, /^input clicks is not of the model; it has dense, sum\.values/],
    ['one given twice', [...tensors(), tensors()[0] as ClientTensor], {}, 400, /^input dense is given twice/],
    [
      'an id beyond the table',
      withTensor(
        int64(
          'sum.values',
          tensors()
            .find(({ name }) => name === 'sum.values')!
            .values.map(() => 10 ** 9),
        ),
      ),
      {},
      400,
      /index|row/,
    ],
    ['lengths that do not sum up', withTensor(int64('sum.lengths', [1, 1, 99])), {}, 400, /^input sum\.lengths has to sum up to the ids/],
    ['an output that is none', tensors(), { outputs: [{ name: 'logits' }] }, 400, /^output logits is not of the model; it has scores/],
    [
      'classification',
      tensors(),
      { outputs: [{ name: 'scores', parameters: { classification: 3 } }] },
      501,
      /classification is not supported/,
    ],
    ['outputs that are no list', tensors(), { outputs: 'scores' }, 400, /^outputs /],
    ['a timeout that is none', tensors(), { parameters: { timeout: -1 } }, 400, /^parameters\.timeout /],
    ['other items than rows', tensors(), { parameters: { items: 5 } }, 400, /5/],
  ];
  test.each(refusals)('%s', async (_, given, more, status, message) => {
    const response = await infer(given, more);
    expect(response.status).toBe(status);
    expect(response.headers.get('content-type')).toBe('application/json');
    expect((await json(response)).error).toMatch(message);
  });

  const inputsJson = (inputs: unknown): string => JSON.stringify({ inputs });
  const input = { name: 'sum.values', datatype: 'INT64', shape: [2], data: [1, 2] };
  const bodies: readonly (readonly [string, string, Record<string, string>, number, RegExp])[] = [
    ['no JSON', '{', {}, 400, /^the body is not JSON/],
    ['nothing', '', {}, 400, /^the body is not JSON/],
    ['a header longer than the body', '{}', { 'inference-header-content-length': '3' }, 400, /^Inference-Header-Content-Length is 3/],
    ['a header that is no number', '{}', { 'inference-header-content-length': '-1' }, 400, /^Inference-Header-Content-Length has to be/],
    [
      'bytes beyond the tensors',
      `${inputsJson([])}xyz`,
      { 'inference-header-content-length': String(inputsJson([]).length) },
      400,
      /3 bytes beyond/,
    ],
    [
      'more bytes than there are',
      inputsJson([{ ...input, data: undefined, parameters: { binary_data_size: 16 } }]),
      {},
      400,
      /^input sum\.values has binary_data_size/,
    ],
    [
      'a datatype that no input has',
      inputsJson([{ ...input, datatype: 'BYTES' }]),
      {},
      400,
      /^input sum\.values has to have a datatype of .*: BYTES/,
    ],
    ['fewer values than the shape', inputsJson([{ ...input, shape: [3] }]), {}, 400, /^input sum\.values has 2 values/],
    ['more values than the shape', inputsJson([{ ...input, shape: [1] }]), {}, 400, /^input sum\.values has more than the 1 values/],
    [
      'words for numbers',
      inputsJson([{ ...input, data: [1, 'two'] }]),
      {},
      400,
      /^input sum\.values has to have numbers as data: position 1/,
    ],
    ['a shape of no integers', inputsJson([{ ...input, shape: [1.5] }]), {}, 400, /^input sum\.values has to have a shape of integers/],
    [
      'a shape beyond all counting',
      inputsJson([{ ...input, shape: [2 ** 40, 2 ** 40] }]),
      {},
      400,
      /^input sum\.values has a shape of more values/,
    ],
    ['shared memory', inputsJson([{ ...input, parameters: { shared_memory_region: 'r' } }]), {}, 501, /shared memory is not supported/],
    ['inputs that are none', '{"inputs": 1}', {}, 400, /^inputs /],
    ['an encoding that is unknown', '{}', { 'content-encoding': 'zstd' }, 415, /^Content-Encoding has to be one of/],
    ['bytes that are no gzip', '{}', { 'content-encoding': 'gzip' }, 400, /^the body cannot be decompressed/],
  ];
  test.each(bodies)('%s', async (_, body, headers, status, message) => {
    const response = await post('/v2/models/small/infer', body, headers);
    expect(response.status).toBe(status);
    expect((await json(response)).error).toMatch(message);
  });

  test('a body that is too large, also once it is decompressed', async () => {
    const large = await post('/v2/models/small/infer', Buffer.alloc(2 ** 20 + 1));
    expect([large.status, (await json(large)).error]).toEqual([413, expect.stringContaining('1048576 bytes')]);
    const bomb = await post('/v2/models/small/infer', gzipSync(Buffer.alloc(2 ** 26)), { 'content-encoding': 'gzip' });
    expect(bomb.status).toBe(413);
  });

  test.each([
    ['/v2/models/other/infer', 404],
    ['/v2/models/small/versions/4/infer', 404],
    ['/v2/nothing', 404],
    ['/v2/health/live', 405],
    ['/v2/systemsharedmemory/region/r/register', 501],
    ['/v2/cudasharedmemory/unregister', 501],
    ['/v2/trace/setting', 501],
    ['/v2/logging', 501],
    ['/v2/repository/models/small/unload', 501],
  ])('%s is %i', async (path, status) => {
    const response = await post(path, '{}');
    expect(response.status).toBe(status);
    expect(await json(response)).toMatchObject({ error: expect.any(String) });
  });
});

test('nested rows, nulls and words for numbers, as clients write them, are read', async () => {
  const inputs = tensors().map(({ name, datatype, shape, values }) => {
    const flat = values.map(Number);
    const [rows = 0, dim] = shape;
    const data = dim === undefined ? flat : Array.from({ length: rows }, (_, row) => flat.slice(row * dim, (row + 1) * dim));
    return { name, datatype, shape, data, parameters: null };
  });
  const response = await post(
    '/v2/models/small/infer',
    JSON.stringify({ id: null, model_name: 'small', parameters: { timeout: '5000000' }, inputs, outputs: null }),
  );
  expect((await readAnswer(response)).outputs['scores']).toEqual(await scoresOf());
});

test('a model without ids in a bag: empty tensors come without data, with null, and with 0 bytes', async () => {
  const bag = { indices: [], offsets: [0, 0] };
  const request = { items: 1, dense: { dense: [1, 2, 3, 4, 5] }, sparse: { sum: bag, mean: bag, weighted: { ...bag, weights: [] } } };
  const empty = (name: string, datatype: string, more: object) => ({ name, datatype, shape: [0], ...more });
  const inputs = [
    { name: 'dense', datatype: 'FP32', shape: [1, 5], data: [1, 2, 3, 4, 5] },
    ...['sum', 'mean', 'weighted'].map((name) => ({ name: `${name}.lengths`, datatype: 'INT64', shape: [1], data: [0] })),
    empty('sum.values', 'INT64', {}),
    empty('mean.values', 'INT64', { data: null, parameters: { binary_data_size: 0 } }),
    empty('weighted.values', 'INT64', { data: [] }),
    empty('weighted.weights', 'FP32', { parameters: { binary_data_size: 0 } }),
  ];
  const response = await post('/v2/models/small/infer', JSON.stringify({ inputs }));
  expect((await readAnswer(response)).outputs['scores']).toEqual((await predictor.predict(request)).scores);
});

test('a request as plain JSON is ranked as predict does, and refused as it does', async () => {
  const request = small();
  const plain = {
    items: 3,
    dense: { dense: [...(request.dense['dense'] as Float32Array)] },
    sparse: Object.fromEntries(
      Object.entries(request.sparse).map(([name, { indices, offsets, weights }]) => [
        name,
        { indices: [...indices].map(Number), offsets: [...offsets].map(Number), ...(weights && { weights: [...weights] }) },
      ]),
    ),
  };
  const response = await post('/v1/models/small:rank', JSON.stringify(plain));
  expect(await json(response)).toEqual({ model: 'small', version: '3', scores: [...(await scoresOf())] });
  const refused = await post('/v1/models/small/versions/3:rank', JSON.stringify({ ...plain, dense: { dense: [null] } }));
  expect([refused.status, await refused.json()]).toEqual([
    400,
    expect.objectContaining({ code: 'invalid_argument', details: expect.objectContaining({ field: 'dense.dense' }) }),
  ]);
  const late = await post('/v1/models/small:rank?deadline_ms=x', JSON.stringify(plain));
  expect(late.status).toBe(400);
});

test('metadata, configuration, statistics and the index say what is served', async () => {
  const get = async (path: string) => json(await fetch(server.url + path));
  expect(await get('/v2')).toMatchObject({
    name: 'terabag',
    version: expect.any(String),
    extensions: expect.arrayContaining(['binary_tensor_data']),
  });
  const metadata = await get('/v2/models/small');
  expect(metadata).toMatchObject({
    name: 'small',
    versions: ['3'],
    platform: 'terabag',
    outputs: [{ name: 'scores', datatype: 'FP32', shape: [-1, 1] }],
  });
  expect(metadata.inputs).toContainEqual({ name: 'weighted.weights', datatype: 'FP32', shape: [-1] });
  const config = await get('/v2/models/small/versions/3/config');
  expect(config.input).toContainEqual({ name: 'sum.offsets', data_type: 'TYPE_INT64', dims: [-1], optional: true });
  expect(await get('/v2/models/small/ready')).toEqual({ name: 'small', ready: true });
  const [before] = (await get('/v2/models/small/stats')).model_stats;
  await infer(tensors(5));
  await infer([]);
  const [after] = (await get('/v2/models/stats')).model_stats;
  expect(after.inference_count - before.inference_count).toBe(5);
  expect(after.execution_count - before.execution_count).toBe(1);
  expect(after.inference_stats.fail.count - before.inference_stats.fail.count).toBe(1);
  expect(after.inference_stats.success.ns).toBeGreaterThan(before.inference_stats.success.ns);
  const index = await (await post('/v2/repository/index', '')).json();
  expect(index).toEqual([{ name: 'small', version: '3', state: 'READY', reason: '' }]);
});

test('a client that goes within its body, or sends what is no HTTP, leaves the others served', async () => {
  const port = Number(new URL(server.url).port);
  await Promise.all(
    [
      'POST /v2/models/small/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{',
      'GARBAGE\r\n\r\n',
      `GET / HTTP/1.1\r\nx: ${'y'.repeat(40_000)}\r\n\r\n`,
    ].map(
      (text) =>
        new Promise<void>((resolve) => {
          const socket = connectSocket(port, '127.0.0.1', () => socket.write(text, () => setTimeout(() => socket.destroy(), 50)));
          socket.on('error', () => undefined).on('close', () => resolve());
        }),
    ),
  );
  expect((await infer(tensors())).status).toBe(200);
});
