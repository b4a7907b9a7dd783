import { Command, InvalidArgumentError } from 'commander';
import { expect, test } from 'vitest';
import { addHostOptions } from '../../../src/cli/host-options.js';
import {
  byteSize,
  durationMs,
  positiveByteSize,
  positiveDurationMs,
  positiveInteger,
  positiveIntegers,
  positiveNumber,
  positiveShare,
  requestRate,
} from '../../../src/cli/options.js';

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

test('numbers are decimal digits', () => {
  expect(['1', '007', '9007199254740991'].map(positiveInteger)).toEqual([1, 7, 2 ** 53 - 1]);
  expect(positiveIntegers('1,8, 64')).toEqual([1, 8, 64]);
  expect(['2', '2.5', '.5'].map(positiveNumber)).toEqual([2, 2.5, 0.5]);
  expect(['1', '0.02', '.02', '2%', '100%', '0.5%'].map(positiveShare)).toEqual([1, 0.02, 0.02, 0.02, 1, 0.005]);
});

test.each([positiveInteger, positiveNumber, requestRate, positiveShare, byteSize, durationMs])(
  '%o refuses other notations of a number, and spaces',
  (parse) => {
    const unit = parse === byteSize ? 'B' : parse === durationMs ? 's' : '';
    const numbers = ['0x1', '0b1', '0o1', '1e0', '1E0', '1e-1', '+1', '-1', '1_0', '1n', '1.', 'Infinity', 'NaN', '', '1,0', '\u0661'];
    for (const text of [...numbers.map((number) => `${number}${unit}`), ` 1${unit}`, `1${unit} `, `1${unit}\n`])
      expect(() => parse(text), text).toThrow(InvalidArgumentError);
  },
);

const hostOption = (option: string) => (text: string) =>
  addHostOptions(new Command().exitOverride().configureOutput({ writeErr: () => undefined }))
    .parse([option, text], { from: 'user' })
    .opts();

test.each(['--host-cpu', '--network-loss'])('%s is decimal digits, with a percent sign or without', (option) => {
  const parse = hostOption(option);
  for (const text of ['50', '50%', '50.0%']) expect(Object.values(parse(text))).toEqual([50]);
  for (const text of ['0x32', '5e1', '+50', ' 50', '50 %', '%', '']) expect(() => parse(text), text).toThrow(/digits of a number/);
});
