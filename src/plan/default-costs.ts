import type { Costs } from './costs.js';

/** What `terabag calibrate` measured on the machine that it names: for plans of those who have not measured theirs. */
export const DEFAULT_COSTS: Costs = {
  terabagCosts: 2,
  machine: 'AMD EPYC (Zen 4), 2 cores, 24 GiB, linux x64, Node 20.20, kernels avx512, 2026-11-25',
  sharedCores: 2,
  lookups: [
    {
      format: 'fp32',
      dim: 16,
      ns: 7.927,
      inCacheNs: 2.116,
    },
    {
      format: 'fp32',
      dim: 64,
      ns: 13.06,
      inCacheNs: 3.547,
    },
    {
      format: 'fp32',
      dim: 128,
      ns: 23.77,
      inCacheNs: 6.517,
    },
    {
      format: 'fp16',
      dim: 16,
      ns: 8.098,
      inCacheNs: 2.137,
    },
    {
      format: 'fp16',
      dim: 64,
      ns: 10.83,
      inCacheNs: 3.371,
    },
    {
      format: 'fp16',
      dim: 128,
      ns: 13.98,
      inCacheNs: 5.581,
    },
    {
      format: 'bf16',
      dim: 16,
      ns: 7.612,
      inCacheNs: 2.155,
    },
    {
      format: 'bf16',
      dim: 64,
      ns: 10.72,
      inCacheNs: 3.354,
    },
    {
      format: 'bf16',
      dim: 128,
      ns: 14.03,
      inCacheNs: 5.57,
    },
    {
      format: 'int8',
      dim: 16,
      ns: 9.519,
      inCacheNs: 2.292,
    },
    {
      format: 'int8',
      dim: 64,
      ns: 11.3,
      inCacheNs: 3.68,
    },
    {
      format: 'int8',
      dim: 128,
      ns: 14.4,
      inCacheNs: 5.797,
    },
    {
      format: 'int8_fp16',
      dim: 16,
      ns: 9.692,
      inCacheNs: 2.395,
    },
    {
      format: 'int8_fp16',
      dim: 64,
      ns: 11.28,
      inCacheNs: 3.844,
    },
    {
      format: 'int8_fp16',
      dim: 128,
      ns: 14.9,
      inCacheNs: 5.924,
    },
    {
      format: 'int4',
      dim: 16,
      ns: 9.73,
      inCacheNs: 2.579,
    },
    {
      format: 'int4',
      dim: 64,
      ns: 12.13,
      inCacheNs: 4.502,
    },
    {
      format: 'int4',
      dim: 128,
      ns: 14.95,
      inCacheNs: 7.267,
    },
  ],
  cacheBytes: 16777216,
  pool: {
    nsPerBag: 3.8,
    nsPerSegment: 21.39,
  },
  dense: {
    nsPerWeight: 0.02929,
    nsPerMac: 0.0184,
    nsPerPairMac: 0.03925,
  },
  main: {
    fixedUs: 83.23,
    askUs: 147.6,
    usPerRpc: 44.45,
    nsPerSegment: 299.4,
    nsPerRowWiseId: 1.176,
    nsPerRowWisePartial: 1038,
    nsPerByteSent: 2.647,
    nsPerByteReceived: 2.432,
  },
  shard: {
    usPerRpc: 153.4,
    usPerColdRpc: 8.275,
    nsPerByteSent: 2.817,
    nsPerByteReceived: 1.522,
  },
  latency: {
    waitUs: 5,
    onPath: 0.9,
    bytesOnPath: 0.35,
  },
};
