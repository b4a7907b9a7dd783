import { z } from 'zod';
import { ROW_FORMATS } from '../model/row-format.js';

const cost = z.number().min(0);

/** What work costs on one kind of machine; measured by `terabag calibrate`. All times are of one core. */
export const costsSchema = z.strictObject({
  terabagCosts: z.literal(1),
  /** What it was measured on. */
  machine: z.string(),
  /** Cores that the main shard and all sparse shards of a plan share when they run on one machine; null when each has its own. */
  sharedCores: z.number().int().min(1).nullable(),
  /** ns per looked-up row, at dims that were measured; between them linear in the bytes of a row. Tables that fit the caches cost inCache. */
  lookups: z.array(z.strictObject({ format: z.enum(ROW_FORMATS), dim: z.number().int().min(1), ns: cost, inCacheNs: cost })).min(1),
  /** Tables up to this size count as in cache. */
  cacheBytes: cost,
  /** ns per bag and per segment (a table, or part of one, in a message) at the sparse shard, beside its lookups. */
  nsPerBag: cost,
  nsPerSegment: cost,
  rpc: z.strictObject({
    /** CPU us of one RPC without payload, at the main shard and at the sparse shard, and the time from send to answer when both are idle. */
    mainCpuUs: cost,
    shardCpuUs: cost,
    latencyUs: cost,
    /** CPU ns per byte sent (ids and offsets) and received (pooled vectors), at both ends together. */
    nsPerByteSent: cost,
    nsPerByteReceived: cost,
  }),
  main: z.strictObject({
    /** us per request whatever it holds: checks, admission, promises. */
    fixedUs: cost,
    /** ns per bag and per id to check, partition and gather; of row-wise tables per id, and per partial vector. */
    nsPerBag: cost,
    nsPerId: cost,
    nsPerRowWiseId: cost,
    nsPerRowWisePartial: cost,
    /** Multiply-adds per ns of the dense layers. */
    macsPerNs: cost,
  }),
});
export type Costs = z.output<typeof costsSchema>;
