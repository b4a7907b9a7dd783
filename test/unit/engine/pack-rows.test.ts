import fc from 'fast-check';
import { expect, it } from 'vitest';
import { native } from '../../../src/engine/native.js';
import { type PlainFormat, type RowFormat, rowBytes } from '../../../src/model/formats.js';
import { readSafetensorsHeader, readTensor } from '../../../src/tables/safetensors.js';

const FIXTURE = new URL('../../fixtures/packed-rows/rows.safetensors', import.meta.url).pathname;
const bytesOf = (array: ArrayBufferView): Uint8Array => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
const { fround } = Math;

async function pack(rows: Uint8Array, from: PlainFormat, dim: number, to: RowFormat) {
  const out = new Uint8Array((rows.length / rowBytes(from, dim)) * rowBytes(to, dim));
  return { out, ...(await native.packRows(rows, from, dim, to, out)) };
}

/** A float16 or bfloat16 nearest to a float32, by search over all of them; ties go to the even one. */
function nearest16(value: number, decode: (bits: number) => number): number {
  let best = 0;
  for (let bits = 0; bits < 0x8000; bits++) {
    const [found, old] = [decode(bits), decode(best)];
    if (!Number.isFinite(found)) break;
    const closer = Math.abs(found - Math.abs(value)) - Math.abs(old - Math.abs(value));
    if (closer < 0 || (closer === 0 && bits % 2 === 0)) best = bits;
  }
  return best | (value < 0 || Object.is(value, -0) ? 0x8000 : 0);
}
const halfOf = (bits: number): number => {
  const [sign, exponent, fraction] = [bits & 0x8000 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25));
};
const bf16Of = (bits: number): number => new Float32Array(Uint32Array.of(bits << 16).buffer)[0] as number;
const half = (value: number): number => halfOf(nearest16(value, halfOf));

/** To nearest, ties to even. */
function roundEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}

/** q, scale and bias of a row, by the formulas in float32. */
function quantized(row: number[], to: RowFormat): { q: number[]; scale: number; bias: number } {
  const [least, most] = [Math.min(...row), Math.max(...row)];
  if (to === 'int8') {
    const range = fround(most - least);
    const inverse = fround(255 / fround(range + fround(1e-8)));
    return { q: row.map((x) => roundEven(fround(fround(x - least) * inverse))), scale: fround(range / 255), bias: least };
  }
  const levels = to === 'int4' ? 15 : 255;
  const bias = half(least);
  const span = fround(most - bias);
  let scale = span === 0 ? 1 : half(fround(span / levels)) || 1;
  if (!Number.isFinite(fround(1 / scale))) scale = 1;
  const inverse = fround(1 / scale);
  return { q: row.map((x) => Math.min(levels, Math.max(0, roundEven(fround(fround(x - bias) * inverse))))), scale, bias };
}

function unpacked(packed: Uint8Array, dim: number, to: RowFormat): { q: number[]; scale: number; bias: number } {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
  const values = to === 'int4' ? Math.ceil(dim / 2) : dim;
  const q = Array.from({ length: dim }, (_, d) =>
    to === 'int4' ? (view.getUint8(d >> 1) >> (d % 2 === 0 ? 0 : 4)) & 15 : view.getUint8(d),
  );
  return to === 'int8'
    ? { q, scale: view.getFloat32(values, true), bias: view.getFloat32(values + 4, true) }
    : { q, scale: halfOf(view.getUint16(values, true)), bias: halfOf(view.getUint16(values + 2, true)) };
}

it.each(['int8', 'int4'] as const)('writes %s rows bit for bit as PyTorch does', async (to) => {
  const header = await readSafetensorsHeader(FIXTURE);
  const dims = [...header.tensors.keys()].flatMap((name) => (name.startsWith('rows.') ? [Number(name.slice(5))] : []));
  expect(dims.length).toBe(7);
  for (const dim of dims) {
    const [rows, expected] = await Promise.all(
      [`rows.${dim}`, `${to}.${dim}`].map((name) => readTensor(header, header.tensors.get(name)!)),
    );
    const { out } = await pack(rows!, 'fp32', dim, to);
    expect(Buffer.from(out).equals(Buffer.from(expected!))).toBe(true);
  }
});

const values = fc.oneof(
  fc.float({ noNaN: true, min: fround(-1000), max: 1000 }),
  fc.float({ noNaN: true, min: fround(-1e-7), max: fround(1e-7) }),
  fc.constantFrom(0, -0, 1, 0.5, fround(1e-40)),
);

it.each(['int8', 'int8_fp16', 'int4'] as const)('writes %s rows by their formula, and says how far off they are', async (to) => {
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: 40 }), fc.array(values, { minLength: 1, maxLength: 80 }), async (dim, numbers) => {
      const rows = Array.from({ length: Math.max(1, Math.floor(numbers.length / dim)) }, (_, r) =>
        Array.from({ length: dim }, (_, d) => numbers[(r * dim + d) % numbers.length]!),
      );
      const { out, maxError, sumSquaredError, sumSquares } = await pack(bytesOf(Float32Array.from(rows.flat())), 'fp32', dim, to);
      const errors = rows.flatMap((row, r) => {
        const found = unpacked(out.subarray(r * rowBytes(to, dim), (r + 1) * rowBytes(to, dim)), dim, to);
        const { q, scale, bias } = quantized(row, to);
        expect(found.q).toEqual(q);
        expect([found.scale, found.bias + 0]).toEqual([scale, bias + 0]);
        return row.map((x, d) => scale * q[d]! + bias - x);
      });
      expect(maxError).toBe(Math.max(...errors.map(Math.abs)));
      expect(sumSquaredError).toBeCloseTo(
        errors.reduce((sum, error) => sum + error * error, 0),
        5,
      );
      expect(sumSquares / (rows.flat().reduce((sum, x) => sum + x * x, 0) || 1)).toBeCloseTo(rows.flat().some((x) => x !== 0) ? 1 : 0, 9);
    }),
  );
});

it.each([
  ['fp16', halfOf],
  ['bf16', bf16Of],
] as const)('rounds to the nearest %s, ties to even', async (to, decode) => {
  const some = [0, -0, 1, 1.0004883, 1.0004884, 1.0014648, 65504, 65519.99, 2 ** -24, 2 ** -25, 2 ** -25 * 1.01, 6.1e-5, -3.25, 1e-7];
  const rows = Float32Array.from([...some, ...Array.from({ length: 40 }, (_, i) => Math.sin(i) * 10 ** ((i % 9) - 5))]);
  const { out } = await pack(bytesOf(rows), 'fp32', rows.length, to);
  const bits = [...new Uint16Array(out.buffer)];
  expect(bits).toEqual([...rows].map((value) => nearest16(value, decode)));
  // And back, exactly.
  const back = await pack(out, to, rows.length, 'fp32');
  expect([...new Float32Array(back.out.buffer)]).toEqual(bits.map(decode));
  expect(back.maxError).toBe(0);
});

it('refuses what a format cannot hold, with the row', async () => {
  const rows = (...of: number[][]): Uint8Array => bytesOf(Float32Array.from(of.flat()));
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
    for (const to of ['int8', 'int8_fp16', 'int4'] as const)
      await expect(pack(rows([1, 2], [3, 4], [5, bad]), 'fp32', 2, to)).rejects.toMatchObject({ status: 'not_finite', row: 2 });
    expect((await pack(rows([1, bad]), 'fp32', 2, 'bf16')).maxError).toBeLessThan(0.01);
  }
  await expect(pack(rows([1, 2], [70_000, 0]), 'fp32', 2, 'fp16')).rejects.toMatchObject({ status: 'overflow', row: 1 });
  await expect(pack(rows([-70_000, 0]), 'fp32', 2, 'int4')).rejects.toMatchObject({ status: 'overflow', row: 0 });
  await expect(pack(rows([-3e38, 3e38]), 'fp32', 2, 'int8')).rejects.toMatchObject({ status: 'overflow', row: 0 });
  const source = rows([1, 2]);
  expect(() => native.packRows(source, 'fp32', 3, 'int8', new Uint8Array(11))).toThrow('whole rows');
  expect(() => native.packRows(source, 'fp32', 2, 'int8', new Uint8Array(9))).toThrow('as long as');
  expect(() => native.packRows(source, 'int8' as 'fp32', 2, 'int8', new Uint8Array(10))).toThrow('without scale and bias');
});
