import type { Ratio } from '../report/characterisation.js';

/** How far apart rounds were: half of what lies between the lowest and the highest. */
const spread = ({ low, high }: Ratio): number => (high - low) / 2;

export type Order = 'lower' | 'equal' | 'higher';

/** How a compares with b. A difference of medians inside the larger spread of the two counts as none. */
export function compareRatios(a: Ratio, b: Ratio): Order {
  const difference = a.median - b.median;
  if (Math.abs(difference) <= Math.max(spread(a), spread(b))) return 'equal';
  return difference < 0 ? 'lower' : 'higher';
}

/** How a ratio compares with 1, its baseline. */
export const compareWithBaseline = (ratio: Ratio): Order => compareRatios(ratio, { median: 1, low: 1, high: 1 });

/** 1.04 (1.01 to 1.08): the median, the lowest and the highest round. */
export const ratioText = ({ median, low, high }: Ratio): string => `${median.toFixed(3)} (${low.toFixed(3)} to ${high.toFixed(3)})`;
