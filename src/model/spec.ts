import { z } from 'zod';
import { ROW_FORMATS } from './formats.js';

/**
 * model.json. A model has dense features, tables, and nets that run in order. A net is a list of named layers; embedding bags are layers
 * that read ids of the request from one table. A layer reads dense features and earlier layers of this net or of earlier nets, by name.
 */
const name = z.string().min(1).max(256);
const count = z.number().int().min(1).max(Number.MAX_SAFE_INTEGER);
/** A map of any keys: z.record passes over "__proto__". */
const mapOf = <T extends z.ZodType>(values: T) =>
  z
    .preprocess(
      (given) => (typeof given === 'object' && given !== null && !Array.isArray(given) ? new Map(Object.entries(given)) : given),
      z.map(z.string(), values),
    )
    .transform((entries): Record<string, z.output<T>> => Object.fromEntries(entries));
const dim = z.number().int().min(1).max(65_536);

const tableSchema = z.strictObject({
  name,
  rows: count,
  dim,
  format: z.enum(ROW_FORMATS),
  /** Path of the safetensors file, relative to the bundle, inside it. */
  file: z.string().min(1),
  tensor: z.string().min(1),
});

const embeddingBagSchema = z.strictObject({
  type: z.literal('embedding_bag'),
  name,
  table: name,
  pooling: z.enum(['sum', 'mean']).default('sum'),
  weighted: z.boolean().default(false),
  // What requests are like, for plans that are made without a sample of them. No defaults: the hash of a model without them stays.
  /** Mean number of ids per bag. */
  poolingFactor: z.number().min(0).optional(),
  /** user: given once per request; item: once per item. */
  side: z.enum(['user', 'item']).optional(),
});
const fcSchema = z.strictObject({
  type: z.literal('fc'),
  name,
  input: name,
  /** Tensor [out, in] F32 of dense.safetensors; bias [out] or null. */
  weight: z.string().min(1),
  bias: z.string().min(1).nullable().default(null),
  activation: z.enum(['none', 'relu', 'sigmoid']).default('none'),
});
const dotInteractionSchema = z.strictObject({
  /** Concat of the first input with the dot products of all pairs, row-major lower triangle; diagonal adds the pairs (i, i). */
  type: z.literal('dot_interaction'),
  name,
  inputs: z.array(name).min(2),
  diagonal: z.boolean().default(false),
});
const concatSchema = z.strictObject({ type: z.literal('concat'), name, inputs: z.array(name).min(1) });
const sumSchema = z.strictObject({ type: z.literal('sum'), name, inputs: z.array(name).min(1) });
/** Elementwise product. */
const productSchema = z.strictObject({ type: z.literal('product'), name, inputs: z.array(name).min(1) });
const crossSchema = z.strictObject({
  /**
   * A cross layer of DCNv2 (Wang et al., 2021) over [x0, x]: x0 * (W x + bias) + x with weight [dim, dim], or of low rank with
   * W = weightU weightV, tensors [dim, rank] and [rank, dim].
   */
  type: z.literal('cross'),
  name,
  inputs: z.tuple([name, name]),
  weight: z.string().min(1).nullable().default(null),
  weightU: z.string().min(1).nullable().default(null),
  weightV: z.string().min(1).nullable().default(null),
  bias: z.string().min(1).nullable().default(null),
});
const layerNormSchema = z.strictObject({
  /** As torch.nn.LayerNorm over the last dim; weight and bias are [dim]. */
  type: z.literal('layer_norm'),
  name,
  input: name,
  weight: z.string().min(1),
  bias: z.string().min(1),
  epsilon: z.number().min(0).default(1e-5),
});
const layerSchema = z.discriminatedUnion('type', [
  embeddingBagSchema,
  fcSchema,
  dotInteractionSchema,
  concatSchema,
  sumSchema,
  productSchema,
  crossSchema,
  layerNormSchema,
]);

export const fileSchema = z.strictObject({
  bytes: count,
  /** zlib's crc32 of each chunk of 64 MiB, 8 lower-case hex digits. */
  crc32: z.array(z.string().regex(/^[0-9a-f]{8}$/)).min(1),
});

/**
 * What `terabag publish` adds to the source's model.json, which stays as it is beside it: the source's hash is worked out from that, and its
 * files are those of the source. Rows here are `part`, part + parts, part + 2 parts, ... of the source's table.
 */
export const publishedSchema = z.strictObject({
  /** Hash of the source model. */
  source: z.string().regex(/^[0-9a-f]{64}$/),
  /** The plan's shard whose rows these are. */
  shard: name,
  parts: z.array(
    z.strictObject({
      table: name,
      part: z.number().int().min(0),
      parts: count,
      rows: count,
      file: z.string().min(1),
      tensor: z.string().min(1),
    }),
  ),
  /** The files that are here, by path relative to the bundle. */
  files: mapOf(fileSchema),
});

export const modelSchema = z.strictObject({
  terabag: z.literal(1),
  name,
  version: z.string().min(1),
  dense: z.array(z.strictObject({ name, dim })),
  tables: z.array(tableSchema),
  nets: z.array(z.strictObject({ name, layers: z.array(layerSchema).min(1) })).min(1),
  /** The layer whose value is returned as scores. */
  output: name,
  /** By path relative to the bundle. */
  files: mapOf(fileSchema),
  published: publishedSchema.optional(),
});

export type ModelSpec = z.output<typeof modelSchema>;
export type TableSpec = z.output<typeof tableSchema>;
export type LayerSpec = z.output<typeof layerSchema>;
export type EmbeddingBagSpec = z.output<typeof embeddingBagSchema>;
export type FileSpec = z.output<typeof fileSchema>;
export type PublishedSpec = z.output<typeof publishedSchema>;
export type PublishedPart = PublishedSpec['parts'][number];
