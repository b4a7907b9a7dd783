import { z } from 'zod';
import { ROW_FORMATS } from '../../model/formats.js';
import { dim } from '../../model/spec.js';
import { writeFileAtomic } from '../../tables/atomic.js';
import { checkJson, type JsonFileKind, readJsonFile } from '../../tables/json-file.js';

/** Time of one piece of work, in ns or us. The most, a second in ns, is far beyond any; what requests add up to stays finite. */
const cost = z.number().min(0).max(1e9);

/** What work costs on one kind of machine; measured by `terabag calibrate`. All times are CPU time of one core, unless they say otherwise. */
const costsSchema = z.strictObject({
  terabagCosts: z.literal(2),
  /** What it was measured on, and when. */
  machine: z.string(),
  /** Cores that the main shard and all sparse shards of a plan share when they run on one machine; null when each has its own. */
  sharedCores: z.number().int().min(1).nullable(),
  /** ns per looked-up row, at dims that were measured; between them linear in the bytes of a row. */
  lookups: z.array(z.strictObject({ format: z.enum(ROW_FORMATS), dim, ns: cost, inCacheNs: cost })).min(1),
  /** Bytes of rows that the caches keep: a random lookup in this much still takes less than halfway from inCacheNs to ns. */
  cacheBytes: z.number().min(0).max(Number.MAX_SAFE_INTEGER),
  /** What the engine takes beside its lookups: ns per bag, and per segment (a bag layer's table, or a part of it, in a batch). */
  pool: z.strictObject({ nsPerBag: cost, nsPerSegment: cost }),
  /** The dense layers: ns per weight to read it, once a request, per multiply-add, and per one of a dot interaction. */
  dense: z.strictObject({ nsPerWeight: cost, nsPerMac: cost, nsPerPairMac: cost }),
  /** At the main shard; see request-cost.ts. */
  main: z.strictObject({
    /** us per request whatever it holds: checks, admission, promises; on top when it asks any shard at all, and per RPC, beside its payload. */
    fixedUs: cost,
    askUs: cost,
    usPerRpc: cost,
    /** ns per segment to check, partition and gather; of row-wise tables per id and per partial vector on top. Ids and bags are in the bytes. */
    nsPerSegment: cost,
    nsPerRowWiseId: cost,
    nsPerRowWisePartial: cost,
    /** Per byte of segments, ids and offsets sent, and of pooled vectors received. */
    nsPerByteSent: cost,
    nsPerByteReceived: cost,
  }),
  /**
   * At a sparse shard, beside what its engine does. usPerColdRpc comes on top when main's dense layers take two milliseconds or more of a request,
   * and in proportion when they take less: the longer a shard lies idle, the less of it is left in caches. Bytes as the main shard sees them: sent to the
   * shard, received from it.
   */
  shard: z.strictObject({ usPerRpc: cost, usPerColdRpc: cost, nsPerByteSent: cost, nsPerByteReceived: cost }),
  /** How the time of a request follows from CPU time; see latency.ts. */
  latency: z.strictObject({
    /** us between asking and going on that are no CPU time of ours: wake-ups, the network. */
    waitUs: cost,
    /** Shares of the CPU time of messages, and of their bytes, that somebody waits for; the rest is done by other threads, or after. */
    onPath: z.number().min(0).max(1),
    bytesOnPath: z.number().min(0).max(1),
  }),
});
/** @useDeclaredType */
export type Costs = z.output<typeof costsSchema>;

const KIND: JsonFileKind = { what: 'costs', code: 'invalid_argument' };

export const readCosts = (path: string): Promise<Costs> => readJsonFile(path, KIND, costsSchema);

/** What readCosts would refuse is refused as it would be (invalid_argument). */
export async function writeCosts(path: string, costs: Costs): Promise<void> {
  await writeFileAtomic(path, `${JSON.stringify(checkJson(path, costs, KIND, costsSchema), null, 2)}\n`);
}
