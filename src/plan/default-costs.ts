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
      ns: 8.138,
      inCacheNs: 2.514,
    },
    {
      format: 'fp32',
      dim: 64,
      ns: 13.33,
      inCacheNs: 3.645,
    },
    {
      format: 'fp32',
      dim: 128,
      ns: 23.29,
      inCacheNs: 6.584,
    },
    {
      format: 'fp16',
      dim: 16,
      ns: 6.919,
      inCacheNs: 2.961,
    },
    {
      format: 'fp16',
      dim: 64,
      ns: 8.841,
      inCacheNs: 3.254,
    },
    {
      format: 'fp16',
      dim: 128,
      ns: 14.44,
      inCacheNs: 5.822,
    },
    {
      format: 'bf16',
      dim: 16,
      ns: 7.197,
      inCacheNs: 2.951,
    },
    {
      format: 'bf16',
      dim: 64,
      ns: 8.951,
      inCacheNs: 3.507,
    },
    {
      format: 'bf16',
      dim: 128,
      ns: 14.19,
      inCacheNs: 5.849,
    },
    {
      format: 'int8',
      dim: 16,
      ns: 8.356,
      inCacheNs: 3.23,
    },
    {
      format: 'int8',
      dim: 64,
      ns: 9.893,
      inCacheNs: 3.572,
    },
    {
      format: 'int8',
      dim: 128,
      ns: 12.71,
      inCacheNs: 4.96,
    },
    {
      format: 'int8_fp16',
      dim: 16,
      ns: 8.268,
      inCacheNs: 3.209,
    },
    {
      format: 'int8_fp16',
      dim: 64,
      ns: 10.01,
      inCacheNs: 3.894,
    },
    {
      format: 'int8_fp16',
      dim: 128,
      ns: 13.45,
      inCacheNs: 5.01,
    },
    {
      format: 'int4',
      dim: 16,
      ns: 8.3,
      inCacheNs: 3.266,
    },
    {
      format: 'int4',
      dim: 64,
      ns: 10.53,
      inCacheNs: 4.419,
    },
    {
      format: 'int4',
      dim: 128,
      ns: 13.09,
      inCacheNs: 6.471,
    },
  ],
  cacheBytes: 16777216,
  pool: {
    nsPerBag: 5.168,
    nsPerSegment: 17.78,
  },
  dense: {
    nsPerWeight: 0.06996,
    nsPerMac: 0.01875,
    nsPerPairMac: 0.03203,
  },
  main: {
    fixedUs: 43.68,
    askUs: 109.3,
    usPerRpc: 31.12,
    nsPerSegment: 169.6,
    nsPerRowWiseId: 69.71,
    nsPerRowWisePartial: 721.1,
    nsPerByteSent: 1.061,
    nsPerByteReceived: 0.3927,
  },
  shard: {
    usPerRpc: 59.74,
    usPerColdRpc: 37.65,
    nsPerByteSent: 0.8836,
    nsPerByteReceived: 0.3564,
  },
  latency: {
    waitUs: 70,
    onPath: 0.6,
    bytesOnPath: 0.75,
  },
};
