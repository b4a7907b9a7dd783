import fc from 'fast-check';
import { Packr } from 'msgpackr';
import { expect, test } from 'vitest';
import { TerabagError } from '../../../src/errors.js';
import { decodeClientMessage, decodeShardMessage, encodeClientMessage, encodeShardMessage } from '../../../src/wire/codec.js';
import type { ClientMessage, ShardMessage } from '../../../src/wire/messages.js';

const id = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER });
const binary = fc.uint8Array({ maxLength: 400 }).map((bytes) => Buffer.from(bytes));
const scalar = fc.oneof(
  fc.string(),
  fc.boolean(),
  fc.double({ noNaN: true }).map((value) => value + 0),
);
const key = fc.string().filter((name) => name !== '__proto__');
const clientMessage: fc.Arbitrary<ClientMessage> = fc.oneof(
  fc.record({ kind: fc.constant('hello' as const), modelHash: fc.string() }),
  fc.record({ kind: fc.constantFrom('ping' as const, 'stats' as const), id }),
  fc.record({
    kind: fc.constant('pool' as const),
    id,
    remainingMs: fc.double({ min: 0, max: 2 ** 31, noNaN: true }),
    batch: fc.record({
      indexBytes: fc.constantFrom<4 | 8>(4, 8),
      segments: binary,
      indices: binary,
      offsets: binary,
      weights: fc.option(binary),
    }),
  }),
);
const state = fc.constantFrom('ready' as const, 'draining' as const);
const shardMessage: fc.Arbitrary<ShardMessage> = fc.oneof(
  fc.record({ kind: fc.constant('welcome' as const), shard: fc.string(), modelHash: fc.string(), state }),
  fc.record({ kind: fc.constant('pooled' as const), id, serviceUs: fc.double({ min: 0, max: 1e9, noNaN: true }), pooled: binary }),
  fc.record({
    kind: fc.constant('error' as const),
    id,
    code: fc.string(),
    message: fc.string(),
    details: fc.dictionary(key, scalar, { noNullPrototype: true }),
  }),
  fc.record({ kind: fc.constant('pong' as const), id, state }),
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

test('arbitrary bytes decode to a message or a bad_message, never to another error', () => {
  const noise = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    // An array of this version, so that more than the first byte is read.
    fc.uint8Array({ maxLength: 100 }).map((bytes) => Uint8Array.of(0x90 + 2 + (bytes.length % 9), 1, ...bytes)),
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
          expect(error).toHaveProperty('code', 'bad_message');
        }
      }
    }),
    { numRuns: 2000 },
  );
});

test.each([
  ['an array of 2^32 - 1', 'ddffffffff'],
  ['arrays in arrays that each claim the rest', `9301${'dd00ffffff'.repeat(30)}`],
  ['a million arrays in arrays', `9301${'91'.repeat(1_000_000)}`],
  ['a binary longer than the message', '9301a4706f6f6cc6ffffffff00'],
  ['a map longer than the message', '9301dfffffffff'],
])('a lying length reserves nothing: %s', (_, hex) => {
  const bytes = Buffer.from(hex, 'hex');
  const before = process.memoryUsage().rss;
  for (let n = 0; n < 20; n++) expect(() => decodeClientMessage(bytes)).toThrowError(TerabagError);
  expect(process.memoryUsage().rss - before).toBeLessThan(64 * 2 ** 20);
});

const packr = new Packr({ useRecords: false, moreTypes: false });
const bytes = Buffer.alloc(4);
test.each<[string, unknown[]]>([
  ['another version', [2, 'ping', 1]],
  ['an unknown kind', [1, 'pang', 1]],
  ['a field too few', [1, 'ping']],
  ['a field too many', [1, 'ping', 1, 1]],
  ['a negative id', [1, 'ping', -1]],
  ['half an id', [1, 'ping', 0.5]],
  ['an id beyond 2^53', [1, 'ping', 2 ** 60]],
  ['an id that is text', [1, 'ping', '1']],
  ['a hash that is a number', [1, 'hello', 1]],
  ['a deadline that is not a number', [1, 'pool', 1, Number.NaN, 4, bytes, bytes, bytes, null]],
  ['a deadline without an end', [1, 'pool', 1, Number.POSITIVE_INFINITY, 4, bytes, bytes, bytes, null]],
  ['a negative deadline', [1, 'pool', 1, -1, 4, bytes, bytes, bytes, null]],
  ['indices of 3 bytes', [1, 'pool', 1, 1, 3, bytes, bytes, bytes, null]],
  ['indices that are a list', [1, 'pool', 1, 1, 4, bytes, [1, 2], bytes, null]],
  ['offsets that are text', [1, 'pool', 1, 1, 4, bytes, bytes, 'abcd', null]],
  ['weights that are false', [1, 'pool', 1, 1, 4, bytes, bytes, bytes, false]],
])('a message with %s is refused as malformed', (_, message) => {
  expect(() => decodeClientMessage(packr.pack(message))).toThrow(expect.objectContaining({ code: 'bad_message' }));
});
