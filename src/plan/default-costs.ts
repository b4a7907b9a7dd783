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
      ns: 8.091,
      inCacheNs: 2.122,
    },
    {
      format: 'fp32',
      dim: 64,
      ns: 13.23,
      inCacheNs: 3.529,
    },
    {
      format: 'fp32',
      dim: 128,
      ns: 23.66,
      inCacheNs: 6.554,
    },
    {
      format: 'fp16',
      dim: 16,
      ns: 8.241,
      inCacheNs: 2.147,
    },
    {
      format: 'fp16',
      dim: 64,
      ns: 10.85,
      inCacheNs: 3.389,
    },
    {
      format: 'fp16',
      dim: 128,
      ns: 14.31,
      inCacheNs: 5.64,
    },
    {
      format: 'bf16',
      dim: 16,
      ns: 7.809,
      inCacheNs: 2.153,
    },
    {
      format: 'bf16',
      dim: 64,
      ns: 10.93,
      inCacheNs: 3.373,
    },
    {
      format: 'bf16',
      dim: 128,
      ns: 14.32,
      inCacheNs: 5.537,
    },
    {
      format: 'int8',
      dim: 16,
      ns: 9.603,
      inCacheNs: 2.31,
    },
    {
      format: 'int8',
      dim: 64,
      ns: 11.37,
      inCacheNs: 3.664,
    },
    {
      format: 'int8',
      dim: 128,
      ns: 14.37,
      inCacheNs: 5.771,
    },
    {
      format: 'int8_fp16',
      dim: 16,
      ns: 9.795,
      inCacheNs: 2.399,
    },
    {
      format: 'int8_fp16',
      dim: 64,
      ns: 11.32,
      inCacheNs: 3.792,
    },
    {
      format: 'int8_fp16',
      dim: 128,
      ns: 14.62,
      inCacheNs: 5.934,
    },
    {
      format: 'int4',
      dim: 16,
      ns: 9.83,
      inCacheNs: 2.582,
    },
    {
      format: 'int4',
      dim: 64,
      ns: 12.1,
      inCacheNs: 4.481,
    },
    {
      format: 'int4',
      dim: 128,
      ns: 14.85,
      inCacheNs: 7.202,
    },
  ],
  cacheBytes: 16777216,
  pool: {
    nsPerBag: 3.835,
    nsPerSegment: 20.95,
  },
  dense: {
    nsPerWeight: 0.04462,
    nsPerMac: 0.01896,
    nsPerPairMac: 0.04229,
  },
  main: {
    fixedUs: 72.45,
    askUs: 103.9,
    usPerRpc: 70.54,
    nsPerSegment: 77.51,
    nsPerRowWiseId: 72.3,
    nsPerRowWisePartial: 383,
    nsPerByteSent: 3.28,
    nsPerByteReceived: 2.065,
  },
  shard: {
    usPerRpc: 171.7,
    usPerColdRpc: 50.87,
    nsPerByteSent: 3.47,
    nsPerByteReceived: 0.6726,
  },
  latency: {
    waitUs: 50,
    onPath: 0.55,
    bytesOnPath: 0.55,
  },
};
