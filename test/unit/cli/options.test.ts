import { InvalidArgumentError } from 'commander';
import { expect, test } from 'vitest';
import { byteSize, durationMs, positiveByteSize, positiveDurationMs } from '../../../src/cli/options.js';

test('a size is a number with its unit, in powers of 1024', () => {
  const sizes = { '0B': 0, '17B': 17, '1.5KiB': 1536, '512MiB': 2 ** 29, '2GiB': 2 ** 31, '0.25TiB': 2 ** 38 };
  expect(Object.keys(sizes).map(byteSize)).toEqual(Object.values(sizes));
});

test('a time is a number with its unit', () => {
  const times = { '0s': 0, '500us': 0.5, '20ms': 20, '1.5s': 1500, '2m': 120_000 };
  expect(Object.keys(times).map(durationMs)).toEqual(Object.values(times));
});

test.each([
  [byteSize, '512M', ': 512MiB.'],
  [byteSize, '4GB', ': 4GiB.'],
  [byteSize, '1.5g', ': 1.5GiB.'],
  [byteSize, '64 gib', ': 64GiB.'],
  [byteSize, '1048576', ': 1048576B.'],
  [byteSize, '0', ': 0B.'],
  [byteSize, '-1MiB', 'such as 512MiB'],
  [byteSize, '1e3MiB', 'such as 512MiB'],
  [byteSize, '9999TiB', 'less than 8192TiB'],
  [positiveByteSize, '0B', 'more than 0'],
  [positiveByteSize, '0.1B', 'more than 0'],
  [durationMs, '50', ': 50ms or 50s.'],
  [durationMs, '1 s', 'such as 500us'],
  [durationMs, '5sec', 'such as 500us'],
  [durationMs, '-1s', 'such as 500us'],
  [durationMs, '600000m', 'at most 2147483647ms'],
  [positiveDurationMs, '0s', 'longer than 0'],
])('%o refuses %s, and says what to write', (parse, text, reason) => {
  const refused = (): unknown => parse(text);
  expect(refused).toThrow(InvalidArgumentError);
  expect(refused).toThrow(reason);
});
