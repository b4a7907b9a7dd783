import { InvalidArgumentError, Option } from 'commander';
import { LOG_LEVELS, type LogLevel } from '../cluster/shard-task.js';
import { decimal } from '../decimal.js';
import { RESIDENCIES } from '../engine/residency.js';
import { HIGHEST_QPS } from '../lab/load/arrivals.js';
import { RPC_MODES } from '../plan/predict/rpc-mode.js';
import { SHARD_FAILURE_POLICIES } from '../predictor/pipeline.js';

/** Parsers of option values; a bad value is a usage error that names the option. */

export function positiveInteger(text: string): number {
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value) || value < 1) throw new InvalidArgumentError('It has to be decimal digits of an integer, 1 or more.');
  return value;
}

/** Positions count from 0. */
export function position(text: string): number {
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value)) throw new InvalidArgumentError('It has to be decimal digits of an integer, 0 or more.');
  return value;
}

export function positiveNumber(text: string): number {
  const value = decimal(text);
  if (!Number.isFinite(value) || value <= 0) throw new InvalidArgumentError('It has to be decimal digits of a number above 0.');
  return value;
}

export function regularExpression(text: string): RegExp {
  try {
    return new RegExp(text);
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message);
  }
}

/** More than 0 and at most 1; a percentage is one too: 2%. */
export function positiveShare(text: string): number {
  const [, number = '', percent] = /^(.*?)(%?)$/s.exec(text) ?? [];
  const share = decimal(number) / (percent === '%' ? 100 : 1);
  if (!(share > 0 && share <= 1)) throw new InvalidArgumentError('It has to be more than 0 and at most 1, such as 0.02.');
  return share;
}

/** Requests a second of open-loop load. */
export function requestRate(text: string): number {
  const value = positiveNumber(text);
  if (value > HIGHEST_QPS) throw new InvalidArgumentError(`It has to be at most ${HIGHEST_QPS}.`);
  return value;
}

const MS_PER_UNIT: Readonly<Record<string, number>> = { us: 1e-3, ms: 1, s: 1000, m: 60_000 };
/** The longest time of a timer of Node's; it fires a longer one at once. */
const MAX_MS = 2 ** 31 - 1;

/** Milliseconds of a time, which is a number with its unit: 500us, 20ms, 10s, 2m; 0s is one too. */
export function durationMs(text: string): number {
  const [, number = '', unit = ''] = /^(\d+(?:\.\d+)?)(us|ms|s|m)$/.exec(text) ?? [];
  if (number === '') {
    const plain = /^\d+(?:\.\d+)?$/.test(text.trim());
    throw new InvalidArgumentError(
      plain
        ? `It has to be a time with its unit: ${text.trim()}ms or ${text.trim()}s.`
        : 'It has to be a time with its unit (us, ms, s, m), such as 500us, 20ms, 10s or 2m.',
    );
  }
  const ms = Number(number) * (MS_PER_UNIT[unit] as number);
  if (ms > MAX_MS) throw new InvalidArgumentError(`It has to be at most ${MAX_MS}ms, which are 24 days.`);
  return ms;
}

export function positiveDurationMs(text: string): number {
  const ms = durationMs(text);
  if (ms === 0) throw new InvalidArgumentError('It has to be longer than 0.');
  return ms;
}

/** An option of a time or a size, whose default --help shows as one would type it. */
export const quantityOption = (flags: string, description: string, parse: (text: string) => number, given: string): Option =>
  new Option(flags, description).argParser(parse).default(parse(given), given);

const SIZE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

/** Bytes of a size, which is a number with its unit, in powers of 1024: 512MiB, 1.5GiB; 0B is one too. */
export function byteSize(text: string): number {
  const [, number = '', unit = ''] = /^(\d+(?:\.\d+)?)(B|KiB|MiB|GiB|TiB)$/.exec(text) ?? [];
  if (number === '') {
    // The units of other programs, of which it is not known whether they are powers of 1000 or of 1024.
    const [, amount, letter] = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?$/i.exec(text.trim()) ?? [];
    const meant = letter === '' ? 'B' : `${letter?.toUpperCase()}iB`;
    throw new InvalidArgumentError(
      amount === undefined
        ? 'It has to be a size with its unit (B, KiB, MiB, GiB, TiB), such as 512MiB or 1.5GiB.'
        : `It has to be a size with its unit (B, KiB, MiB, GiB, TiB): ${amount}${meant}.`,
    );
  }
  const bytes = Math.round(Number(number) * 1024 ** SIZE_UNITS.indexOf(unit));
  if (!Number.isSafeInteger(bytes)) throw new InvalidArgumentError('It has to be less than 8192TiB.');
  return bytes;
}

export function positiveByteSize(text: string): number {
  const bytes = byteSize(text);
  if (bytes === 0) throw new InvalidArgumentError('It has to be more than 0.');
  return bytes;
}

/** An option that is spelled otherwise now: it is not listed, and says what to write. */
export const renamedOption = (flags: string, instead: (value: string) => string): Option =>
  new Option(flags)
    .argParser((value) => {
      throw new InvalidArgumentError(`It is ${instead(value)} now.`);
    })
    .hideHelp();

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
    .choices(RPC_MODES)
    .default('coalesced');

export const shardFailureOption = (): Option =>
  new Option(
    '--on-shard-failure <what>',
    'with --plan: fail a request, or take the bags of a shard that is away for empty and say so (default: error)',
  ).choices(SHARD_FAILURE_POLICIES);

export const residencyOption = (): Option =>
  new Option('--residency <how>', 'how tables are held in memory: pages as touched, read ahead, locked, or copied to huge pages')
    .choices(RESIDENCIES)
    .default('populate');

export const precisionOption = (): Option =>
  new Option('--precision <what>', 'of the dense layers; bf16 and int8 need a CPU that has them')
    .choices(['fp32', 'bf16', 'int8'])
    .default('fp32');

export const logLevelOption = (level: LogLevel): Option =>
  new Option('--log-level <level>', 'what the shards log, on stderr').choices(LOG_LEVELS).default(level);

export const readyOption = (): Option =>
  quantityOption('--ready <time>', 'a shard that does not serve so long after its start is killed', positiveDurationMs, '5m');

export const drainOption = (): Option =>
  quantityOption('--drain <time>', 'how long a shard that ends waits for requests in flight', durationMs, '3s');
