import { InvalidArgumentError, Option } from 'commander';
import { LOG_LEVELS, type LogLevel } from '../cluster/shard-task.js';
import { RESIDENCIES } from '../engine/residency.js';
import { HIGHEST_QPS } from '../lab/load/arrivals.js';

/** Parsers of option values; a bad value is a usage error that names the option. */

export function positiveInteger(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) throw new InvalidArgumentError('It has to be an integer, 1 or more.');
  return value;
}

export function positiveNumber(text: string): number {
  const value = Number(text);
  if (!Number.isFinite(value) || value <= 0) throw new InvalidArgumentError('It has to be a number above 0.');
  return value;
}

/** More than 0 and at most 1; a percentage is one too: 2%. */
export function positiveShare(text: string): number {
  const [, number = '', percent] = /^(\d*\.?\d+(?:e-?\d+)?)(%?)$/i.exec(text.trim()) ?? [];
  const share = Number(number) / (percent === '%' ? 100 : 1);
  if (number === '' || !(share > 0 && share <= 1)) throw new InvalidArgumentError('It has to be more than 0 and at most 1, such as 0.02.');
  return share;
}

/** Requests a second of open-loop load. */
export function requestRate(text: string): number {
  const value = positiveNumber(text);
  if (value > HIGHEST_QPS) throw new InvalidArgumentError(`It has to be at most ${HIGHEST_QPS}.`);
  return value;
}

const MS_PER_UNIT: Readonly<Record<string, number>> = { us: 1e-3, ms: 1, s: 1000, m: 60_000 };

/** Milliseconds of a time with its unit: 500us, 20ms, 10s, 2m; 0s is one too. */
export function durationMs(text: string): number {
  const [, number = '', unit = ''] = /^(\d+(?:\.\d+)?)(us|ms|s|m)$/.exec(text.trim()) ?? [];
  if (number === '') throw new InvalidArgumentError('It has to be a time with its unit, such as 500us, 20ms, 10s or 2m.');
  return Number(number) * (MS_PER_UNIT[unit] as number);
}

export function positiveDurationMs(text: string): number {
  const ms = durationMs(text);
  if (ms === 0) throw new InvalidArgumentError('It has to be longer than 0.');
  return ms;
}

/** An option of a time, whose default --help shows as one would type it. */
export const timeOption = (flags: string, description: string, parse: (text: string) => number, given: string): Option =>
  new Option(flags, description).argParser(parse).default(parse(given), given);

const UNITS: Readonly<Record<string, number>> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

/** Bytes, with K, M, G or T for powers of 1024: 512M, 1.5G. */
export function byteSize(text: string): number {
  const [, number = '', unit = ''] = /^(\d+(?:\.\d+)?)([kmgt]?)(?:i?b)?$/i.exec(text.trim()) ?? [];
  const bytes = Math.round(Number(number) * (UNITS[unit.toLowerCase()] ?? Number.NaN));
  if (number === '' || !Number.isSafeInteger(bytes) || bytes < 1)
    throw new InvalidArgumentError('It has to be a size such as 512M or 1.5G.');
  return bytes;
}

/** Bytes, given as a number of units of so many bytes; at least 1, or 0. */
export const bytesIn =
  (unitBytes: number, leastBytes: 0 | 1 = 1) =>
  (text: string): number => {
    const bytes = Math.round(Number(text) * unitBytes);
    if (text.trim() === '' || !Number.isSafeInteger(bytes) || bytes < leastBytes)
      throw new InvalidArgumentError(`It has to be a number${leastBytes === 0 ? ', 0 or more' : ' above 0'}.`);
    return bytes;
  };

export const commaSeparated = (text: string): string[] => text.split(',').map((part) => part.trim());
export const positiveIntegers = (text: string): number[] => commaSeparated(text).map(positiveInteger);

export const verifyOption = (): Option =>
  new Option(
    '--verify <what>',
    'what is checked of the files at start: full: every checksum; size: lengths, headers, and the checksums of a sample (the first 64 MiB of each file, and up to 256 MiB more of all): damage elsewhere is not seen',
  )
    .choices(['full', 'size'])
    .default('full');

export const rpcOption = (): Option =>
  new Option('--rpc <mode>', 'with --plan: one RPC per request and shard, or, as the paper does, one per batch, net and shard')
    .choices(['coalesced', 'paper'])
    .default('coalesced');

export const residencyOption = (): Option =>
  new Option('--residency <how>', 'how tables are held in memory: pages as touched, read ahead, locked, or copied to huge pages')
    .choices(RESIDENCIES)
    .default('populate');

export const logLevelOption = (level: LogLevel): Option =>
  new Option('--log-level <level>', 'what the shards log, on stderr').choices(LOG_LEVELS).default(level);

export const readyOption = (): Option =>
  timeOption('--ready <time>', 'a shard that does not serve so long after its start is killed', positiveDurationMs, '5m');

export const drainOption = (): Option =>
  timeOption('--drain <time>', 'how long a shard that ends waits for requests in flight', durationMs, '3s');
