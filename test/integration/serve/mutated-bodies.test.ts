import { once } from 'node:events';
import { rm } from 'node:fs/promises';
import { Agent, request as httpRequest } from 'node:http';
import { deflateSync, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ERROR_CODES, type ErrorCode } from '../../../src/errors.js';
import { openLocal } from '../../../src/index.js';
import { rssOf } from '../../chaos/processes.js';
import { inferBody, tensorsOf } from '../../reference/infer-body.js';
import type { ServeProcess } from '../../reference/serve-process.js';
import { DENSE, random, type SmallModel, smallRequest, writeSmallModel } from '../../reference/small-model.js';
import { startReady } from './served-cluster.js';

/** Requests of a run; by hand more: TERABAG_FUZZ_RUNS=100000. */
const RUNS = Number(process.env['TERABAG_FUZZ_RUNS'] ?? 3000);
const MIB = 2 ** 20;
const MAX_BODY = MIB;
/** Of the server's resident memory over a run: bodies that it reads and decompresses, and heap that is not collected yet. */
const MOST_GROWTH = 160 * MIB;
/** Those of src/serve/http/status.ts that a request itself can cause; 500 and a connection that ends without an answer are faults. */
const STATUSES = [200, 400, 404, 413, 415, 501, 503, 504];

let model: SmallModel;
let served: ServeProcess;
let scores: number[];
const agent = new Agent({ keepAlive: true, maxSockets: 4 });

beforeAll(async () => {
  model = await writeSmallModel(5);
  const local = await openLocal(model.dir);
  scores = Array.from((await local.predict(smallRequest(random(4), 3))).scores);
  await local.close();
  served = await startReady(`small=${model.dir}`, '--max-body', '1MiB', '--deadline', '2s');
});
afterAll(async () => {
  agent.destroy();
  await served?.end();
  await rm(model.dir, { recursive: true });
});

interface Body {
  readonly json: string;
  readonly binary: Buffer;
}

/** As clients write it: all inputs binary, or none. */
function bodyOf(binary: boolean): Body {
  const more = { id: 'a', ...(binary && { parameters: { binary_data_output: true } }) };
  const { body, headers } = inferBody(tensorsOf(smallRequest(random(4), 3), { dense: DENSE }), () => binary, more);
  const length = Number(headers['inference-header-content-length'] ?? body.length);
  return { json: body.toString('utf8', 0, length), binary: body.subarray(length) };
}

const BODIES = [bodyOf(true), bodyOf(false)] as const;

/** What a JSON value is replaced by. */
const STRANGE = [
  ...['null', 'true', '-1', '0', '1', '0.5', '1e308', '1e999', '4294967296', '9007199254740993', '18446744073709551616', '1e-400'],
  ...[
    '[]',
    '{}',
    '""',
    '"BYTES"',
    '"UINT64"',
    '"sum.offsets"',
    '"__proto__"',
    '"\\u0000"',
    '"\\ud800"',
    '[[[[[[[[[[[[1]]]]]]]]]]]]',
    '[1,2,[3]]',
  ],
  ...['{"binary_data_size":16}', '{"binary_data_size":-1}', '{"shared_memory_region":"a"}', '{"__proto__":{}}', '"9".repeat'],
  `[${'0,'.repeat(5000)}0]`,
  '['.repeat(20_000),
];
const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|true|null/g;

type Mutation = (body: Body) => Body;
const anywhere = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
const at = (length: number, share: number): number => Math.floor(length * share);

const jsonMutation: fc.Arbitrary<Mutation> = fc.oneof(
  fc.record({ share: anywhere, value: fc.oneof(fc.constantFrom(...STRANGE), fc.json({ maxDepth: 3 })) }).map(
    ({ share, value }): Mutation =>
      (body) => {
        const tokens = [...body.json.matchAll(TOKEN)];
        const token = tokens[at(tokens.length, share)];
        if (token === undefined) return body;
        return { ...body, json: body.json.slice(0, token.index) + value + body.json.slice(token.index + token[0].length) };
      },
  ),
  fc.record({ from: anywhere, length: fc.nat(40), text: fc.string({ maxLength: 8 }) }).map(
    ({ from, length, text }): Mutation =>
      (body) => {
        const start = at(body.json.length, from);
        return { ...body, json: body.json.slice(0, start) + text + body.json.slice(start + length) };
      },
  ),
  fc.record({ from: anywhere, to: anywhere }).map(
    ({ from, to }): Mutation =>
      (body) => {
        const copied = body.json.slice(at(body.json.length, from), at(body.json.length, from) + 60);
        const start = at(body.json.length, to);
        return { ...body, json: body.json.slice(0, start) + copied + body.json.slice(start) };
      },
  ),
);

const binaryMutation: fc.Arbitrary<Mutation> = fc.oneof(
  fc.record({ share: anywhere, bytes: fc.uint8Array({ minLength: 1, maxLength: 16 }) }).map(
    ({ share, bytes }): Mutation =>
      (body) => {
        const binary = Buffer.from(body.binary);
        binary.set(bytes.subarray(0, Math.max(0, binary.length - at(binary.length, share))), at(binary.length, share));
        return { ...body, binary };
      },
  ),
  anywhere.map(
    (share): Mutation =>
      (body) => ({ ...body, binary: body.binary.subarray(0, at(body.binary.length, share)) }),
  ),
  fc.uint8Array({ maxLength: 64 }).map(
    (bytes): Mutation =>
      (body) => ({ ...body, binary: Buffer.concat([body.binary, bytes]) }),
  ),
);

interface Sent {
  readonly body: Buffer;
  readonly headers: Record<string, string>;
}

/** How the mutated body is sent: with the length of its JSON or a wrong one, compressed or only said to be. */
const mutatedRequest: fc.Arbitrary<Sent> = fc
  .record({
    of: fc.constantFrom(...BODIES),
    mutations: fc.array(fc.oneof(jsonMutation, binaryMutation), { minLength: 0, maxLength: 3 }),
    header: fc.oneof(
      { weight: 6, arbitrary: fc.constant('right') },
      { weight: 1, arbitrary: fc.constantFrom('none', '-1', '0', '1', '3', '1e3', 'x', '99999999999999', '9'.repeat(400)) },
      { weight: 1, arbitrary: fc.nat(2000).map(String) },
    ),
    encoding: fc.oneof(
      { weight: 6, arbitrary: fc.constant('identity') },
      { weight: 2, arbitrary: fc.constantFrom('gzip', 'deflate', 'gzip cut', 'deflate of nothing', 'br') },
    ),
  })
  .map(({ of, mutations, header, encoding }) => {
    const { json: text, binary } = mutations.reduce((body, mutate) => mutate(body), of as Body);
    const head = Buffer.from(text);
    const whole = Buffer.concat([head, binary]);
    const length = header === 'right' ? String(head.length) : header;
    const hasLength = header !== 'none' && (header !== 'right' || of.binary.length > 0);
    const [coding = ''] = encoding.split(' ');
    return {
      body: encoded(whole, encoding),
      headers: {
        ...(hasLength && { 'inference-header-content-length': length }),
        ...(coding !== 'identity' && { 'content-encoding': coding }),
      },
    };
  });

function encoded(whole: Buffer, encoding: string): Buffer {
  if (encoding === 'gzip') return gzipSync(whole);
  if (encoding === 'deflate') return deflateSync(whole);
  if (encoding === 'gzip cut') return gzipSync(whole).subarray(0, -5);
  return whole;
}

async function answerTo({ body, headers }: Sent, path = '/v2/models/small/infer'): Promise<{ status: number; text: Buffer }> {
  const sent = httpRequest(`${served.url}${path}`, {
    method: 'POST',
    agent,
    headers: { ...headers, 'content-length': body.length },
  });
  sent.end(body);
  const [response] = await once(sent, 'response', { signal: AbortSignal.timeout(10_000) });
  return { status: response.statusCode, text: Buffer.concat(await response.toArray()) };
}

/** Unchanged bodies are still answered, with the scores of the API. */
async function expectRight(): Promise<void> {
  for (const { json, binary } of BODIES) {
    const headers: Record<string, string> = binary.length > 0 ? { 'inference-header-content-length': `${Buffer.byteLength(json)}` } : {};
    const { status, text } = await answerTo({ body: Buffer.concat([Buffer.from(json), binary]), headers });
    expect(status).toBe(200);
    if (binary.length > 0) expect(text.subarray(-4 * scores.length)).toEqual(Buffer.from(Float32Array.from(scores).buffer));
    else expect(JSON.parse(text.toString()).outputs[0]).toMatchObject({ name: 'scores', shape: [3, 1], data: scores });
  }
}

test('a changed body gets an answer or a typed error, in bounded memory, and the server serves on', {
  timeout: 30_000 + 20 * RUNS,
}, async () => {
  await expectRight();
  const before = rssOf(served.child.pid as number);
  const counts = new Map<number, number>();
  await fc.assert(
    fc.asyncProperty(mutatedRequest, async (sent) => {
      const { status, text } = await answerTo(sent);
      counts.set(status, (counts.get(status) ?? 0) + 1);
      expect(STATUSES).toContain(status);
      if (status === 200) return;
      const told = JSON.parse(text.toString()) as { error: unknown; code?: ErrorCode };
      expect(told.error).toEqual(expect.stringMatching(/./));
      expect((told.error as string).length).toBeLessThan(2000);
      if (![413, 415].includes(status)) expect(ERROR_CODES).toContain(told.code);
    }),
    { numRuns: RUNS },
  );
  // Most are refused, and some are still requests: both ways are walked.
  expect(counts.get(400)).toBeGreaterThan(RUNS / 4);
  expect(counts.get(200)).toBeGreaterThan(RUNS / 50);
  await expectRight();
  expect(rssOf(served.child.pid as number) - before).toBeLessThan(MOST_GROWTH);
  expect(served.child.exitCode).toBeNull();
});

test('bodies above the limit are refused, also those that are small until they are decompressed', async () => {
  const large = Buffer.alloc(64 * MIB, 0x20);
  const before = rssOf(served.child.pid as number);
  const bombs = [
    { body: gzipSync(large), headers: { 'content-encoding': 'gzip' } },
    { body: deflateSync(large), headers: { 'content-encoding': 'deflate' } },
  ];
  for (const bomb of bombs) {
    expect(bomb.body.length).toBeLessThan(MAX_BODY);
    for (let again = 0; again < 20; again++) expect((await answerTo(bomb)).status).toBe(413);
  }
  await expectRight();
  expect(rssOf(served.child.pid as number) - before).toBeLessThan(32 * MIB);
});
