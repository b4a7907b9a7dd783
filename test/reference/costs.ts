import type { Costs } from '../../src/plan/predict/costs.js';

/** Costs that are easy to add up by hand. */
export const PLAIN_COSTS: Costs = {
  terabagCosts: 2,
  machine: 'paper',
  sharedCores: null,
  lookups: [
    { format: 'fp32', dim: 4, ns: 10, inCacheNs: 1 },
    { format: 'fp32', dim: 8, ns: 20, inCacheNs: 2 },
  ],
  cacheBytes: 0,
  pool: { nsPerBag: 100, nsPerSegment: 1000 },
  dense: { nsPerWeight: 0, nsPerMac: 0, nsPerPairMac: 0 },
  main: {
    fixedUs: 5,
    askUs: 7,
    usPerRpc: 11,
    nsPerSegment: 1000,
    nsPerRowWiseId: 2,
    nsPerRowWisePartial: 3,
    nsPerByteSent: 4,
    nsPerByteReceived: 6,
  },
  shard: { usPerRpc: 13, usPerColdRpc: 0, nsPerByteSent: 2, nsPerByteReceived: 3 },
  latency: { waitUs: 50, onPath: 1, bytesOnPath: 1 },
};
