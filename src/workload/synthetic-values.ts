import { type PlainFormat, rowBytes } from '../model/row-format.js';

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

const PIECE_BYTES = 4 * 1024 * 1024;
const FP16_SIGN_AND_MANTISSA = 0x83ff;
const FP16_EXPONENT_BITS = 10;

/** The bytes of `count` random values in [-2^exponent, 2^exponent), in pieces that share one buffer. */
export function* randomRows(
  format: PlainFormat,
  count: number,
  exponent: number,
  numbers: SeededNumbers,
  onBytes: (bytes: number) => void = () => undefined,
): Generator<Uint8Array> {
  const valueBytes = rowBytes(format, 1);
  const piece = Math.min(count, PIECE_BYTES / valueBytes);
  const floats = new Float32Array(format === 'fp16' ? 0 : piece);
  const halves = new Uint16Array(format === 'fp32' ? 0 : piece);
  const floatBits = new Uint32Array(floats.buffer);
  for (let done = 0; done < count; done += piece) {
    const take = Math.min(piece, count - done);
    if (format !== 'fp16') numbers.fill(floats.subarray(0, take), 2 ** exponent);
    for (let i = 0; i < take && format !== 'fp32'; i++) {
      halves[i] = format === 'bf16' ? (floatBits[i] as number) >>> 16 : half(numbers.int32(), exponent);
    }
    const values = format === 'fp32' ? floats : halves;
    yield new Uint8Array(values.buffer, 0, take * valueBytes);
    onBytes(take * valueBytes);
  }
}

/** A random half below 2^exponent: random sign and mantissa, one of the eight exponents below. */
function half(random: number, exponent: number): number {
  const biased = Math.max(1, exponent + 14 - ((random >>> 20) & 7));
  return (random & FP16_SIGN_AND_MANTISSA) | (biased << FP16_EXPONENT_BITS);
}
