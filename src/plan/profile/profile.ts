import { z } from 'zod';
import { TerabagError } from '../../errors.js';
import type { ModelSpec } from '../../model/spec.js';
import { writeFileAtomic } from '../../tables/atomic.js';
import { checkJson, type JsonFileKind, readJsonFile } from '../../tables/json-file.js';

/** Share of a table's rows, those that are looked up most, that hotShare tells of. */
export const HOT_ROWS = 0.01;

/** More bags or ids than a request can have; sums and products of them stay finite. */
const mean = z.number().min(0).max(Number.MAX_SAFE_INTEGER);

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
      /** Number of different ids among them. */
      uniqueRows: mean,
      /** Share of all sampled lookups that goes to the 1 % of the sampled rows that are looked up most. */
      hotShare: z.number().min(0).max(1),
      /** Ids of the bags that are given once per request, for the user; the rest grows with the items. */
      userLookups: mean,
      userBags: mean,
    }),
  ),
});
/** @useDeclaredType */
export type Profile = z.output<typeof profileSchema>;
export type TableProfile = Profile['tables'][number];

const KIND: JsonFileKind = { what: 'profile', code: 'invalid_argument' };

export const readProfile = (path: string): Promise<Profile> => readJsonFile(path, KIND, profileSchema);

/** What readProfile would refuse is refused as it would be (invalid_argument). */
export async function writeProfile(path: string, profile: Profile): Promise<void> {
  await writeFileAtomic(path, `${JSON.stringify(checkJson(path, profile, KIND, profileSchema), null, 2)}\n`);
}

/** Refuses a profile of another model, and one that does not have the model's tables in their order. */
export function checkProfile(profile: Profile, spec: ModelSpec, hash: string): void {
  const { model, tables } = profile;
  if (model.hash !== hash) {
    throw new TerabagError(
      'model_mismatch',
      `profile is of another model: ${model.name} ${model.version} (${model.hash.slice(0, 12)}), the bundle is ${spec.name} ${spec.version} (${hash.slice(0, 12)}); profile again`,
    );
  }
  const odd = spec.tables.findIndex(({ name }, table) => tables[table]?.table !== name);
  if (odd !== -1 || tables.length !== spec.tables.length) {
    const at = odd === -1 ? spec.tables.length : odd;
    throw new TerabagError(
      'invalid_argument',
      `profile has to have the model's tables in their order: at ${at}, the model has ${spec.tables[at]?.name ?? 'none'}, the profile ${tables[at]?.table ?? 'none'}`,
      { field: `tables.${at}` },
    );
  }
}
