import { expect, test } from 'vitest';
import { Scratch } from '../../../src/predictor/scratch.js';

test('a view of the length and type that was asked for last is the same one; all views of a key share its bytes until it grows', () => {
  const scratch = new Scratch();
  const first = scratch.u32('ids', 8).fill(7);
  expect(scratch.u32('ids', 8)).toBe(first);
  const shorter = scratch.u32('ids', 3);
  expect([...shorter]).toEqual([7, 7, 7]);
  const signed = scratch.i32('ids', 8);
  expect(signed).toBeInstanceOf(Int32Array);
  expect(signed.buffer).toBe(first.buffer);
  const grown = scratch.u32('ids', 1000);
  expect(grown.length).toBe(1000);
  expect(scratch.u32('ids', 8).buffer).toBe(grown.buffer);
});

test('a period says what is held, and how much of it was asked for', () => {
  const scratch = new Scratch();
  scratch.f32('large', 1 << 20);
  scratch.f32('large', 1000);
  scratch.u8('small', 300);
  expect(scratch.endPeriod()).toEqual({ held: (1 << 22) + 512, asked: (1 << 22) + 300 });
  // The same length again: the view that is held counts too.
  const view = scratch.f32('large', 1000);
  expect(scratch.f32('large', 1000)).toBe(view);
  expect(scratch.endPeriod()).toEqual({ held: (1 << 22) + 512, asked: 4000 });
  expect(scratch.endPeriod()).toEqual({ held: (1 << 22) + 512, asked: 0 });
});

test('buffers of shared keys lie in memory that other threads see, however they grow', () => {
  const scratch = new Scratch(new Set(['pooled']));
  for (const length of [0, 10, 5000]) {
    expect(scratch.f32('pooled', length).buffer).toBeInstanceOf(SharedArrayBuffer);
    expect(scratch.f32('other', length).buffer).toBeInstanceOf(ArrayBuffer);
  }
});
