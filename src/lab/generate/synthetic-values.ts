import { type PlainFormat, rowBytes } from '../../model/formats.js';

/** Numbers that follow from a seed alone: xorshift32 (Marsaglia, 2003). */
export class SeededNumbers {
  #state: number;

  constructor(seed: number) {
    // Zero is the one state that xorshift never leaves; small seeds are spread over all bits first.
    this.#state = Math.imul(seed + 0x9e3779b9, 0x85ebca6b) | 0 || 1;
    for (let round = 0; round < 8; round++) this.int32();
  }

  /** An integer in [-2^31, 2^31), never 0. */
  int32(): number {
    let state = this.#state;
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    this.#state = state;
    return state;
  }

  /** A number in [0, 1). */
  uniform(): number {
    return (this.int32() >>> 0) / 2 ** 32;
  }

  /** Fills with numbers in [-bound, bound). */
  fill(values: Float32Array, bound: number): void {
    const scale = bound / 2 ** 31;
    for (let i = 0; i < values.length; i++) values[i] = this.int32() * scale;
  }
}

/**
 * Random values that are made once and read round and round. A prime, so that rows start at ever other places: with a dim below it, rows are
 * alike only when their numbers differ by a multiple of it.
 */
const RING_VALUES = 262_147;
const FP16_SIGN_AND_MANTISSA = 0x83ff;
const FP16_EXPONENT_BITS = 10;

/**
 * The bytes of `count` random values in [-2^exponent, 2^exponent), in pieces of one buffer. Made at the speed of memory: what writing a bundle
 * costs is checksums and the disk.
 */
export function* randomRows(
  format: PlainFormat,
  count: number,
  exponent: number,
  numbers: SeededNumbers,
  onBytes: (bytes: number) => void = () => undefined,
): Generator<Uint8Array> {
  const valueBytes = rowBytes(format, 1);
  const ring = randomValues(format, Math.min(count, RING_VALUES), exponent, numbers);
  for (let done = 0; done < count; done += ring.length) {
    const take = Math.min(ring.length, count - done);
    yield new Uint8Array(ring.buffer, 0, take * valueBytes);
    onBytes(take * valueBytes);
  }
}

function randomValues(format: PlainFormat, count: number, exponent: number, numbers: SeededNumbers): Float32Array | Uint16Array {
  if (format === 'fp16') return Uint16Array.from({ length: count }, () => half(numbers.int32(), exponent));
  const floats = new Float32Array(count);
  numbers.fill(floats, 2 ** exponent);
  return format === 'fp32' ? floats : Uint16Array.from(new Uint32Array(floats.buffer), (bits) => bits >>> 16);
}

/** A random half below 2^exponent: random sign and mantissa, one of the eight exponents below. */
function half(random: number, exponent: number): number {
  const biased = Math.max(1, exponent + 14 - ((random >>> 20) & 7));
  return (random & FP16_SIGN_AND_MANTISSA) | (biased << FP16_EXPONENT_BITS);
}
