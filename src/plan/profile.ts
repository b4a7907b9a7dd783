import { z } from 'zod';

const mean = z.number().min(0);

/** What requests ask of each table, as means per request: the ground of load-balanced and auto plans. */
export const profileSchema = z.strictObject({
  terabagProfile: z.literal(1),
  model: z.strictObject({ name: z.string(), version: z.string(), hash: z.string().regex(/^[0-9a-f]{64}$/) }),
  /** requests: sampled; spec: from the model's own figures, nothing was sampled. */
  source: z.enum(['requests', 'spec']),
  /** Number of requests sampled; 0 with source spec. */
  requests: z.number().int().min(0),
  /** Candidate items per request. */
  items: z.strictObject({ mean, p50: mean, p99: mean }),
  /** One per table of the spec, in its order; all bags that read a table count together. */
  tables: z.array(
    z.strictObject({
      table: z.string(),
      /** Bags, and ids of all of them, per request. */
      bags: mean,
      lookups: mean,
      /** Of the ids, those that differ within a request. */
      uniqueRows: mean,
      /** Share of all sampled lookups that goes to the 1 % of the sampled rows that are looked up most. */
      hotShare: z.number().min(0).max(1),
      /** Ids of the bags that are given once per request, for the user; the rest grows with the items. */
      userLookups: mean,
      userBags: mean,
    }),
  ),
});
export type Profile = z.output<typeof profileSchema>;
export type TableProfile = Profile['tables'][number];
