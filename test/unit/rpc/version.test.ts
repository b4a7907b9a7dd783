import fc from 'fast-check';
import { expect, test } from 'vitest';
import { native } from '../../../src/engine/native.js';
import { sameStamp, sameVersion, shownStamp, shownVersion, stampOf } from '../../../src/rpc/version.js';
import { SERVED } from '../../reference/messages.js';

/** CRC-32C, bit by bit (RFC 3720, appendix B.4). */
function plainCrc32c(bytes: Uint8Array): number {
  let crc = 0xffff_ffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f6_3b78 : 0);
  }
  return ~crc >>> 0;
}

test('the plain checksum is that of the RFC', () => {
  expect(plainCrc32c(new Uint8Array(32))).toBe(0x8a91_36aa);
  expect(plainCrc32c(new Uint8Array(32).fill(0xff))).toBe(0x62a8_ab43);
  expect(plainCrc32c(Uint8Array.from({ length: 32 }, (_, at) => at))).toBe(0x46dd_794e);
});

test('the checksum of an answer is CRC-32C of id, stamp and vectors, whatever their length and alignment', () => {
  const noise = fc.tuple(fc.nat(), fc.nat(9000), fc.nat(15));
  fc.assert(
    fc.property(fc.maxSafeNat(), fc.uint8Array({ maxLength: 40 }), noise, (id, stamp, [seed, length, shift]) => {
      let state = seed | 1;
      const bytes = Uint8Array.from({ length: length + shift }, () => {
        state = Math.imul(state, 1_103_515_245) + 12_345;
        return state >>> 16;
      });
      const vectors = bytes.subarray(shift);
      const head = new Uint8Array(Float64Array.of(id).buffer);
      expect(native.answerChecksum(id, stamp, vectors)).toBe(plainCrc32c(Buffer.concat([head, stamp, vectors])));
    }),
    { numRuns: 200 },
  );
});

test('versions are told apart by their stamps', () => {
  const others = [
    { ...SERVED, modelHash: 'ef'.repeat(32) },
    { ...SERVED, planHash: 'ef'.repeat(32) },
    { ...SERVED, epoch: 4 },
    { ...SERVED, epoch: 2 ** 40 + 3 },
  ];
  expect(sameStamp(stampOf(SERVED), stampOf({ ...SERVED }))).toBe(true);
  expect(sameVersion(SERVED, { ...SERVED })).toBe(true);
  for (const other of others) {
    expect(sameStamp(stampOf(SERVED), stampOf(other))).toBe(false);
    expect(sameVersion(SERVED, other)).toBe(false);
    expect(shownStamp(stampOf(other))).toBe(shownVersion(other));
  }
  expect(sameStamp(stampOf(SERVED).subarray(1), stampOf(SERVED))).toBe(false);
  expect(sameStamp(new Uint8Array(0), new Uint8Array(0))).toBe(false);
});
