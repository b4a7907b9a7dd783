/** Three digits, and the unit that keeps them short.
 * @param {number} value
 * @param {readonly string[]} units each 1000 times the one before
 */
function scaled(value, units) {
  let unit = 0;
  let left = value;
  while (left >= 999.5 && unit < units.length - 1) {
    left /= 1000;
    unit++;
  }
  return `${digits(left)}${units[unit] ? `\u00a0${units[unit]}` : ''}`;
}

/** @param {number} value */
function digits(value) {
  if (value === 0) return '0';
  if (value >= 99.95) return Math.round(value).toLocaleString('en');
  return Number(value.toPrecision(value < 0.1 ? 1 : 2 + (value >= 10 ? 1 : 0))).toString();
}

/** @param {number} bytes */
export const shownBytes = (bytes) => scaled(bytes, ['B', 'kB', 'MB', 'GB', 'TB', 'PB']);

/** @param {number} count */
export const shownCount = (count) => (count < 9999.5 ? digits(count) : scaled(count, ['', 'k', 'M', 'G', 'T']));

/** @param {number} us */
export const shownUs = (us) => (us < 1 ? '0\u00a0\u00b5s' : scaled(us, ['\u00b5s', 'ms', 's']));

/** @param {number | null | undefined} ms */
export const shownMs = (ms) => (ms === null || ms === undefined ? '\u2013' : shownUs(ms * 1000));

/** @param {number} share */
export const shownShare = (share) => (share > 0 && share < 0.005 ? '<\u00a01\u00a0%' : `${Math.round(share * 100)}\u00a0%`);

/** @param {number} ms */
export function shownTime(ms) {
  const s = Math.floor(ms / 1000);
  if (s < 60) return `${s}\u00a0s`;
  const [days, hours, minutes] = [Math.floor(s / 86400), Math.floor(s / 3600) % 24, Math.floor(s / 60) % 60];
  if (days > 0) return `${days}\u00a0d ${hours}\u00a0h`;
  return hours > 0 ? `${hours}\u00a0h ${minutes}\u00a0min` : `${minutes}\u00a0min`;
}

/** @param {number} count @param {string} one @param {string} many */
export const counted = (count, one, many = `${one}s`) => `${shownCount(count)}\u00a0${count === 1 ? one : many}`;
