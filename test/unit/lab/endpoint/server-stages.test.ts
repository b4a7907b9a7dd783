import { expect, test } from 'vitest';
import { EndpointStacks, parseServerTiming } from '../../../../src/lab/endpoint/server-stages.js';

const HEADER = 'total;dur=3.500, read;dur=0.100, decode;dur=0.400, predict;dur=2.500, encode;dur=0.200';

test('a Server-Timing header is read when it tells every stage', () => {
  expect(parseServerTiming(HEADER)).toEqual({ total: 3.5, read: 0.1, decode: 0.4, predict: 2.5, encode: 0.2 });
  for (const header of [undefined, '', 'cache;desc="hit"', HEADER.replace('predict', 'db'), HEADER.replace('2.500', '.')])
    expect(parseServerTiming(header)).toBe(null);
});

test('a stack is the mean around a quantile, and its layers add up to the round trip', () => {
  const stacks = new EndpointStacks();
  expect(stacks.at(0.5)).toBe(null);
  // 1 to 200 ms in no order, of which the server says how much was its own.
  for (let n = 0; n < 200; n++) {
    const ms = ((n * 7) % 200) + 1;
    stacks.add(ms, { total: ms / 2, read: 0, decode: ms / 10, predict: ms / 4, encode: ms / 20 });
  }
  const stack = stacks.at(0.5)!;
  // Of the 200, two on either side of the 100th.
  expect(stack).toMatchObject({ quantile: 0.5, requests: 5, totalMs: 100 });
  for (const [layer, ms] of Object.entries({ predict: 25, decode: 10, encode: 5, http: 60 }))
    expect(stack.layers[layer as 'http']).toBeCloseTo(ms, 9);
  expect(stacks.at(1)).toMatchObject({ requests: 3, totalMs: 199 });
});
