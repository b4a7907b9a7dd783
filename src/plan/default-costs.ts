import type { Costs } from './costs.js';

/** What `terabag calibrate` measured on the machine that it names: for plans of those who have not measured theirs. */
export const DEFAULT_COSTS: Costs = {
  terabagCosts: 1,
  machine: 'AMD EPYC (Zen 5), 2 cores, 23 GiB, linux x64, Node 20, kernels avx512, 2026-11-25',
  sharedCores: 2,
  lookups: [
    {
      format: 'fp32',
      dim: 16,
      ns: 10.37,
      inCacheNs: 5.04,
    },
    {
      format: 'fp32',
      dim: 64,
      ns: 15.88,
      inCacheNs: 6.416,
    },
    {
      format: 'fp32',
      dim: 128,
      ns: 24.89,
      inCacheNs: 7.963,
    },
    {
      format: 'fp16',
      dim: 16,
      ns: 10.76,
      inCacheNs: 4.974,
    },
    {
      format: 'fp16',
      dim: 64,
      ns: 11.98,
      inCacheNs: 5.34,
    },
    {
      format: 'fp16',
      dim: 128,
      ns: 16.66,
      inCacheNs: 6.51,
    },
    {
      format: 'bf16',
      dim: 16,
      ns: 10.49,
      inCacheNs: 4.43,
    },
    {
      format: 'bf16',
      dim: 64,
      ns: 11.87,
      inCacheNs: 4.778,
    },
    {
      format: 'bf16',
      dim: 128,
      ns: 16.34,
      inCacheNs: 7.305,
    },
    {
      format: 'int8',
      dim: 16,
      ns: 11.33,
      inCacheNs: 5.253,
    },
    {
      format: 'int8',
      dim: 64,
      ns: 13.56,
      inCacheNs: 5.554,
    },
    {
      format: 'int8',
      dim: 128,
      ns: 16.13,
      inCacheNs: 7.031,
    },
    {
      format: 'int8_fp16',
      dim: 16,
      ns: 10.91,
      inCacheNs: 4.686,
    },
    {
      format: 'int8_fp16',
      dim: 64,
      ns: 13.67,
      inCacheNs: 6.302,
    },
    {
      format: 'int8_fp16',
      dim: 128,
      ns: 15.98,
      inCacheNs: 6.822,
    },
    {
      format: 'int4',
      dim: 16,
      ns: 11.38,
      inCacheNs: 5.046,
    },
    {
      format: 'int4',
      dim: 64,
      ns: 14.42,
      inCacheNs: 6.783,
    },
    {
      format: 'int4',
      dim: 128,
      ns: 18.49,
      inCacheNs: 9.152,
    },
  ],
  cacheBytes: 33550000,
  pool: {
    nsPerBag: 2.317,
    nsPerSegment: 21.99,
  },
  dense: {
    nsPerMac: 0.01717, nsPerPairMac: 0.03, 
    nsPerWeight: 0.03179,
  },
  main: {
    fixedUs: 14.85,
    askUs: 108.7,
    usPerRpc: 46.93,
    nsPerSegment: 928,
    nsPerBag: 29.28,
    nsPerId: 12.34,
    nsPerRowWiseId: 0,
    nsPerRowWisePartial: 457.6,
    nsPerByteSent: 0,
    nsPerByteReceived: 3.148,
  },
  shard: {
    usPerRpc: 153.5,
    nsPerByteSent: 2.11,
    nsPerByteReceived: 1.904,
  },
  latency: {
    waitUs: 100,
    onPath: 0.1,
    bytesOnPath: 0.3,
  },
};
