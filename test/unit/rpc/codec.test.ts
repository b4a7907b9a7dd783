import fc from 'fast-check';
import { Packr } from 'msgpackr';
import { expect, test } from 'vitest';
import { TerabagError } from '../../../src/errors.js';
import { decodeClientMessage, decodeShardMessage, encodeClientMessage, setSerializeUs, shardMessageParts } from '../../../src/rpc/codec.js';
import { type ClientMessage, SHARD_STAGES, type ShardMessage, WIRE_VERSION } from '../../../src/rpc/messages.js';
import { STAMP_BYTES } from '../../../src/rpc/version.js';
import { encodeShardMessage, pooledAnswer, STAMP, STATS as stats } from '../../reference/messages.js';

const id = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER });
const binary = fc.uint8Array({ maxLength: 400 }).map((bytes) => Buffer.from(bytes));
const scalar = fc.oneof(
  fc.string(),
  fc.boolean(),
  fc.double({ noNaN: true }).map((value) => value + 0),
);
const key = fc.string().filter((name) => name !== '__proto__');
const sentAtMs = fc.double({ min: 0, max: 1e12, noNaN: true });
const stamp = fc.uint8Array({ minLength: STAMP_BYTES, maxLength: STAMP_BYTES }).map((bytes) => Buffer.from(bytes));
const version = fc.record({ modelHash: fc.string(), planHash: fc.string(), epoch: id });
const clientMessage: fc.Arbitrary<ClientMessage> = fc.oneof(
  fc.record({ kind: fc.constant('hello' as const), sentAtMs, version, kernels: fc.string() }),
  fc.record({ kind: fc.constant('ping' as const), id, sentAtMs }),
  fc.record({ kind: fc.constantFrom('cancel' as const, 'stats' as const), id }),
  fc.record({
    kind: fc.constant('pool' as const),
    id,
    stamp,
    sentAtMs,
    remainingMs: fc.double({ min: 0, max: 2 ** 31, noNaN: true }),
    batch: fc.record({
      indexBytes: fc.constantFrom<4 | 8>(4, 8),
      segments: binary,
      indices: binary,
      offsets: binary,
      weights: fc.option(binary),
    }),
    timed: fc.boolean(),
  }),
);
const microseconds = fc.double({ min: 0, max: 1e9, noNaN: true });
const state = fc.constantFrom('ready' as const, 'draining' as const);
const shardMessage: fc.Arbitrary<ShardMessage> = fc.oneof(
  fc.record({ kind: fc.constant('welcome' as const), shard: fc.string(), version, kernels: fc.string(), state }),
  fc.record({
    kind: fc.constant('pooled' as const),
    id,
    stamp,
    serviceUs: microseconds,
    pooled: binary,
    checksum: fc.nat(0xffff_ffff),
    stages: fc.option(fc.array(microseconds, { minLength: SHARD_STAGES.length, maxLength: SHARD_STAGES.length })),
  }),
  fc.record({
    kind: fc.constant('error' as const),
    id,
    code: fc.string(),
    message: fc.string(),
    details: fc.dictionary(key, scalar, { noNullPrototype: true }),
  }),
  fc.record({ kind: fc.constant('pong' as const), id, stamp, state, inFlight: id }),
);

test('every message is the same after a round trip, from a buffer of any alignment', () => {
  fc.assert(
    fc.property(clientMessage, shardMessage, fc.nat(9), (client, shard, shift) => {
      const shifted = (bytes: Buffer): Uint8Array => Buffer.concat([Buffer.alloc(shift), bytes]).subarray(shift);
      expect(decodeClientMessage(shifted(encodeClientMessage(client)))).toEqual(client);
      expect(decodeShardMessage(shifted(encodeShardMessage(shard)))).toEqual(shard);
    }),
    { numRuns: 300 },
  );
});

test('arbitrary bytes decode to a message, or are told to be malformed or of another version, never to another error', () => {
  const noise = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    // An array of this version, so that more than the first byte is read.
    fc.uint8Array({ maxLength: 100 }).map((bytes) => Uint8Array.of(0x90 + 2 + (bytes.length % 9), WIRE_VERSION, ...bytes)),
    fc.tuple(clientMessage, fc.nat(), fc.nat(255)).map(([message, at, value]) => {
      const bytes = Buffer.from(encodeClientMessage(message));
      bytes[at % bytes.length] = value;
      return bytes;
    }),
    fc.tuple(shardMessage, fc.nat()).map(([message, cut]) => {
      const bytes = encodeShardMessage(message);
      return bytes.subarray(0, cut % bytes.length);
    }),
  );
  fc.assert(
    fc.property(noise, (bytes) => {
      for (const decode of [decodeClientMessage, decodeShardMessage]) {
        try {
          expect(decode(bytes)).toHaveProperty('kind');
        } catch (error) {
          expect(error).toBeInstanceOf(TerabagError);
          expect(['bad_message', 'version_mismatch']).toContain((error as TerabagError).code);
        }
      }
    }),
    { numRuns: 2000 },
  );
});

test.each([
  ['an array of 2^32 - 1', 'ddffffffff'],
  ['arrays in arrays that each claim the rest', `9303${'dd00ffffff'.repeat(30)}`],
  ['a million arrays in arrays', `9303${'91'.repeat(1_000_000)}`],
  ['a binary longer than the message', '9303a4706f6f6cc6ffffffff00'],
  ['a map longer than the message', '9303dfffffffff'],
])('a lying length reserves nothing: %s', (_, hex) => {
  const bytes = Buffer.from(hex, 'hex');
  const before = process.memoryUsage().rss;
  for (let n = 0; n < 20; n++) expect(() => decodeClientMessage(bytes)).toThrowError(TerabagError);
  expect(process.memoryUsage().rss - before).toBeLessThan(64 * 2 ** 20);
});

const packr = new Packr({ useRecords: false, moreTypes: false });
const bytes = Buffer.alloc(4);
test.each<[string, unknown[]]>([
  ['a version that is no number', ['3', 'ping', 1, 0]],
  ['an unknown kind', [WIRE_VERSION, 'pang', 1]],
  ['a field too few', [WIRE_VERSION, 'ping']],
  ['a field too many', [WIRE_VERSION, 'ping', 1, 1, 1]],
  ['a negative id', [WIRE_VERSION, 'ping', -1, 0]],
  ['half an id', [WIRE_VERSION, 'ping', 0.5, 0]],
  ['an id beyond 2^53', [WIRE_VERSION, 'ping', 2 ** 60, 0]],
  ['an id that is text', [WIRE_VERSION, 'ping', '1', 0]],
  ['a hash that is a number', [WIRE_VERSION, 'hello', 0, 1, '', 0, '']],
  ['an epoch that is half', [WIRE_VERSION, 'hello', 0, '', '', 0.5, '']],
  ['a stamp of 23 bytes', [WIRE_VERSION, 'pool', 1, Buffer.alloc(23), 0, 1, 4, bytes, bytes, bytes, null, false]],
  ['a deadline that is not a number', [WIRE_VERSION, 'pool', 1, STAMP, 0, Number.NaN, 4, bytes, bytes, bytes, null, false]],
  ['a deadline without an end', [WIRE_VERSION, 'pool', 1, STAMP, 0, Number.POSITIVE_INFINITY, 4, bytes, bytes, bytes, null, false]],
  ['a negative deadline', [WIRE_VERSION, 'pool', 1, STAMP, 0, -1, 4, bytes, bytes, bytes, null, false]],
  ['indices of 3 bytes', [WIRE_VERSION, 'pool', 1, STAMP, 0, 1, 3, bytes, bytes, bytes, null, false]],
  ['indices that are a list', [WIRE_VERSION, 'pool', 1, STAMP, 0, 1, 4, bytes, [1, 2], bytes, null, false]],
  ['offsets that are text', [WIRE_VERSION, 'pool', 1, STAMP, 0, 1, 4, bytes, bytes, 'abcd', null, false]],
  ['a wish to be timed that is a number', [WIRE_VERSION, 'pool', 1, STAMP, 0, 1, 4, bytes, bytes, bytes, null, 1]],
  ['weights that are false', [WIRE_VERSION, 'pool', 1, STAMP, 0, 1, 4, bytes, bytes, bytes, false, false]],
])('a message with %s is refused as malformed', (_, message) => {
  expect(() => decodeClientMessage(packr.pack(message))).toThrow(expect.objectContaining({ code: 'bad_message' }));
});

const doubles = (...values: number[]): Buffer => Buffer.from(Float64Array.from(values).buffer);
const sound = SHARD_STAGES.map((_, s) => s);
test.each<[string, unknown]>([
  ['too few', doubles(1, 2)],
  ['half a double', doubles(...sound).subarray(1)],
  ['a negative one', doubles(...sound.with(3, -1))],
  ['one that is no number', doubles(...sound.with(6, Number.NaN))],
  ['one without an end', doubles(...sound.with(0, Number.POSITIVE_INFINITY))],
  ['a list', sound],
])('stages of a shard are refused as malformed: %s', (_, stages) => {
  expect(() => decodeShardMessage(packr.pack([WIRE_VERSION, 'pooled', 1, STAMP, 1, bytes, 0, stages]))).toThrow(
    expect.objectContaining({ code: 'bad_message', details: { field: 'stages', id: 1 } }),
  );
});

test('what encoding took can be told in the message itself', () => {
  const stages = Float64Array.from(sound);
  const parts = shardMessageParts(pooledAnswer({ id: 7, stamp: STAMP }, Buffer.from([1, 2, 3]), stages));
  setSerializeUs(parts, 12.5);
  const expected = sound.with(SHARD_STAGES.indexOf('serializeUs'), 12.5);
  expect(decodeShardMessage(Buffer.concat(parts))).toEqual(
    pooledAnswer({ id: 7, stamp: Buffer.from(STAMP) }, Buffer.from([1, 2, 3]), expected),
  );
});

test('stages stay what they were when other messages are encoded and decoded', () => {
  const message = (stages: number[]): ShardMessage => pooledAnswer({ id: 7, stamp: STAMP }, Buffer.from([1]), stages);
  const first = encodeShardMessage(message(sound));
  const second = encodeShardMessage(message(sound.map((us) => us + 100)));
  const decoded = decodeShardMessage(first);
  decodeShardMessage(second);
  expect(decoded).toMatchObject({ stages: sound });
});

test('stats travel whole, also with a residency that is not known', () => {
  const message: ShardMessage = { kind: 'stats', id: 1, stamp: Buffer.from(STAMP), stats };
  expect(decodeShardMessage(encodeShardMessage(message))).toEqual(message);
});

test.each<[string, unknown, string]>([
  ['a field that is a number instead of a text', { ...stats, shard: 1 }, 'stats.shard'],
  ['a negative counter', { ...stats, requests: -1 }, 'stats.requests'],
  ['a counter that is null', { ...stats, requests: null }, 'stats.requests'],
  ['counts of tables that are a number', { ...stats, unseen: 1 }, 'stats.unseen'],
  ['a count of a table that is text', { ...stats, unseen: { items: '3' } }, 'stats.unseen'],
  ['a residency that is text', { ...stats, residentBytes: 'all' }, 'stats.residentBytes'],
  ['a field that nobody knows', { ...stats, extra: 1 }, 'stats.extra'],
  ['only one field', { shard: 'shard-0' }, 'stats.model'],
])('stats with %s are refused with the field', (_, given, field) => {
  expect(() => decodeShardMessage(packr.pack([WIRE_VERSION, 'stats', 1, STAMP, given]))).toThrow(
    expect.objectContaining({ code: 'bad_message', details: { field } }),
  );
});
