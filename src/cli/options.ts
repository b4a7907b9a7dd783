import { InvalidArgumentError, Option } from 'commander';
import { RESIDENCIES } from '../engine/residency.js';

/** Parsers of option values; a bad value is a usage error that names the option. */

export function positiveInteger(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) throw new InvalidArgumentError('It has to be an integer, 1 or more.');
  return value;
}

const UNITS: Readonly<Record<string, number>> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

/** Bytes, with K, M, G or T for powers of 1024: 512M, 1.5G. */
export function byteSize(text: string): number {
  const [, number = '', unit = ''] = /^(\d+(?:\.\d+)?)([kmgt]?)(?:i?b)?$/i.exec(text.trim()) ?? [];
  const bytes = Math.round(Number(number) * (UNITS[unit.toLowerCase()] ?? Number.NaN));
  if (number === '' || !Number.isSafeInteger(bytes) || bytes < 1)
    throw new InvalidArgumentError('It has to be a size such as 512M or 1.5G.');
  return bytes;
}

/** Bytes, given as a number of units of so many bytes. */
export const bytesIn =
  (unitBytes: number) =>
  (text: string): number => {
    const bytes = Math.round(Number(text) * unitBytes);
    if (text.trim() === '' || !Number.isSafeInteger(bytes) || bytes < 1) throw new InvalidArgumentError('It has to be a number above 0.');
    return bytes;
  };

export const commaSeparated = (text: string): string[] => text.split(',').map((part) => part.trim());

/** Bytes for people: 1.5 GiB. */
export function formatBytes(bytes: number): string {
  const unit = Math.min(4, Math.max(0, Math.floor(Math.log2(Math.max(1, bytes)) / 10)));
  return `${(bytes / 2 ** (10 * unit)).toFixed(unit === 0 ? 0 : 1)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][unit]}`;
}

export const verifyOption = (): Option =>
  new Option('--verify <what>', 'what is checked of the files at start: full checksums, or only the size')
    .choices(['full', 'size'])
    .default('full');

export const residencyOption = (): Option =>
  new Option('--residency <how>', 'how tables are held in memory: pages as touched, read ahead, locked, or copied to huge pages')
    .choices(RESIDENCIES)
    .default('populate');

export const logLevelOption = (level: string): Option =>
  new Option('--log-level <level>', 'what the shards log, on stderr')
    .choices(['trace', 'debug', 'info', 'warn', 'error', 'silent'])
    .default(level);
