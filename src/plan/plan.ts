import { z } from 'zod';

const name = z.string().min(1).max(256);

/** The plan file: which shard holds which table, or which part of a row-wise split table. The source of truth; nothing is elected at run time. */
export const planSchema = z.strictObject({
  terabagPlan: z.literal(1),
  strategy: z.string().min(1),
  model: z.strictObject({ name, version: z.string().min(1), hash: z.string().regex(/^[0-9a-f]{64}$/) }),
  /** One endpoint today; replicas are further endpoints of the same shard. */
  shards: z.array(z.strictObject({ name, endpoints: z.array(z.string().regex(/^(tcp|ipc):\/\/.+/)).length(1, 'exactly one endpoint per shard: replicas are not served yet') })).min(1),
  /** parts[p] names the shard of part p: rows r with r mod parts.length == p, as local row floor(r / parts.length). */
  tables: z.array(z.strictObject({ table: name, parts: z.array(name).min(1) })),
});
export type Plan = z.output<typeof planSchema>;
