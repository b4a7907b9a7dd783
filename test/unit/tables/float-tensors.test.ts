import fc from 'fast-check';
import { expect, test } from 'vitest';
import { isFloatDtype, toFloat32, valueAt } from '../../../src/tables/float-tensors.js';

const bytes = (array: Uint16Array | Float32Array | Float64Array): Uint8Array<ArrayBuffer> => new Uint8Array(array.slice().buffer);

test('halves have the values of IEEE 754', () => {
  const cases: [number, number][] = [
    [0x0000, 0],
    [0x8000, -0],
    [0x0001, 2 ** -24],
    [0x03ff, 1023 * 2 ** -24],
    [0x0400, 2 ** -14],
    [0x3555, 0.333251953125],
    [0x3c00, 1],
    [0xc000, -2],
    [0x7bff, 65504],
    [0xfc00, Number.NEGATIVE_INFINITY],
    [0x7e01, Number.NaN],
  ];
  const values = toFloat32('F16', bytes(Uint16Array.from(cases, ([bits]) => bits)));
  expect(Array.from(values)).toEqual(cases.map(([, value]) => value));
  // In the order of their bits each is larger than the one before, by one unit of its last place.
  const all = toFloat32('F16', bytes(Uint16Array.from({ length: 0x7c01 }, (_, bits) => bits)));
  for (let bits = 1; bits < 0x7c00; bits++) {
    const unit = 2 ** Math.max(-24, Math.floor(Math.log2(all[bits - 1] || 2 ** -24)) - 10);
    expect((all[bits] as number) - (all[bits - 1] as number)).toBe(unit);
  }
});

test('bfloat16 is the upper half of float32, and float64 is rounded to nearest', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 2, maxLength: 40 }), fc.array(fc.double()), (raw, doubles) => {
      const halves = new Uint16Array(raw.slice(0, raw.length & ~1).buffer);
      const view = new DataView(new ArrayBuffer(4));
      const expected = Array.from(halves, (bits) => {
        view.setUint16(0, bits);
        return view.getFloat32(0);
      });
      expect(Array.from(toFloat32('BF16', bytes(halves)))).toEqual(expected);
      expect(Array.from(toFloat32('F64', bytes(Float64Array.from(doubles))))).toEqual(doubles.map(Math.fround));
      expect(Array.from(toFloat32('F32', bytes(Float32Array.from(doubles))))).toEqual(doubles.map(Math.fround));
    }),
  );
});

test('a value that float32 does not hold can be told as it was given', () => {
  expect(valueAt('F64', bytes(Float64Array.of(1, 1e39)), 1)).toBe(1e39);
  expect(valueAt('F16', bytes(Uint16Array.of(0x3c00, 0x7c00)), 1)).toBe(Number.POSITIVE_INFINITY);
  expect(['F32', 'F16', 'BF16', 'F64', 'F8_E4M3', 'I32', 'f32'].map(isFloatDtype)).toEqual([true, true, true, true, false, false, false]);
});
