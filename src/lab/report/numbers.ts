/** Numbers as people read them; a dash stands for what was not measured. */

export const NOT_MEASURED = '–';

/** Bytes for people: 1.5 GiB. */
export function formatBytes(bytes: number): string {
  const unit = Math.min(4, Math.max(0, Math.floor(Math.log2(Math.max(1, bytes)) / 10)));
  return `${(bytes / 2 ** (10 * unit)).toFixed(unit === 0 ? 0 : 1)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][unit]}`;
}

/** Three significant digits, without an exponent: 0.0412, 3.17, 128. */
export function formatNumber(value: number | null): string {
  if (value === null) return NOT_MEASURED;
  if (value === 0) return '0';
  const decimals = Math.min(6, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value)))));
  return value.toFixed(decimals);
}

/** For axes, whose ticks are round: no zeros at the end. */
export const formatTick = (value: number): string => String(Number(value.toPrecision(4)));

export const formatRatio = (ratio: number): string => `${ratio.toFixed(2)}×`;

export const formatCount = (value: number): string => value.toLocaleString('en-US');

/** 0.5 is P50, 0.999 is P99.9. */
export const quantileName = (quantile: number): string => `P${Number((quantile * 100).toFixed(4))}`;

/** Formats durations from seconds to days: 2 h 05 min. */
export function formatDuration(ms: number): string {
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${String(seconds % 60).padStart(2, '0')} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`;
}
