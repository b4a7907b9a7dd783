import { expect, test } from 'vitest';
import type { DenseNet } from '../../../src/engine/dense-net.js';
import { RequestMemory } from '../../../src/predictor/request-memory.js';

const net = { createWorkspace: () => ({}) } as unknown as DenseNet;

test('the first batch works in the memory of the request, and each other one in its own, every time', () => {
  const memory = new RequestMemory(net);
  expect(memory.batch(0).scratch).toBe(memory.scratch);
  expect(memory.batch(2).scratch).not.toBe(memory.batch(1).scratch);
  expect(memory.batch(2)).toBe(memory.batch(2));
});

test('the signal of a batch is used again until it was aborted', () => {
  const batch = new RequestMemory(net).batch(0);
  const first = batch.cancel;
  expect(batch.cancel).toBe(first);
  first.abort();
  expect(batch.cancel).not.toBe(first);
  expect(batch.cancel.signal.aborted).toBe(false);
});

test('memory is worth keeping while requests need a quarter of it, or it is small', () => {
  const memory = new RequestMemory(net);
  const use = (floats: number): void => {
    memory.scratch.f32('pooled', floats);
    memory.batch(1).scratch.f32('pooled', floats);
  };
  use(1 << 20);
  expect(memory.endPeriod()).toBe(true);
  use((1 << 18) + 1);
  expect(memory.endPeriod()).toBe(true);
  use(1 << 17);
  expect(memory.endPeriod()).toBe(false);
  const small = new RequestMemory(net);
  small.scratch.f32('pooled', 1000);
  expect([small.endPeriod(), small.endPeriod()]).toEqual([true, true]);
});
