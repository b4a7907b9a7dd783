import { z } from 'zod';
import { ROW_FORMATS } from './formats.js';
import { name } from './layer-type.js';
import { layerSchema } from './layers.js';
import { unseenSchema } from './unseen.js';

/**
 * model.json. A model has dense features, tables, and nets that run in order. A net is a list of named layers; embedding bags are layers
 * that read ids of the request from one table. A layer reads dense features and earlier layers of this net or of earlier nets, by name.
 */
const count = z.number().int().min(1).max(Number.MAX_SAFE_INTEGER);
const offset = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
/** A map of any keys: z.record passes over "__proto__". */
const mapOf = <T extends z.ZodType>(values: T) =>
  z
    .preprocess(
      (given) => (typeof given === 'object' && given !== null && !Array.isArray(given) ? new Map(Object.entries(given)) : given),
      z.map(z.string(), values),
    )
    .transform((entries): Record<string, z.output<T>> => Object.fromEntries(entries));
export const dim = z.number().int().min(1).max(65_536);

/** The index of a keyed table, a tensor of a safetensors file; see tables/key-index.ts. */
const keysSchema = z.strictObject({ file: z.string().min(1), tensor: z.string().min(1) });

const tableSchema = z.strictObject({
  name,
  rows: count,
  dim,
  format: z.enum(ROW_FORMATS),
  /** Path of the safetensors file, relative to the bundle, inside it. */
  file: z.string().min(1),
  tensor: z.string().min(1),
  // No defaults below: the hash of a model without them stays.
  /** Where the first row starts in a file that need not be a safetensors file; the rows follow one another, as the format says. */
  byteOffset: offset.optional(),
  /** What becomes of ids that it does not have; reject when left out. No default: the hash of a model without it stays. */
  unseen: unseenSchema.optional(),
  /** Of a table whose ids are 64-bit keys: which row each has. Left out: ids are rows. */
  keys: keysSchema.optional(),
});

export const fileSchema = z
  .strictObject({
    bytes: count,
    /** zlib's crc32 of each chunk of 64 MiB, or of each extent; 8 lower-case hex digits. */
    crc32: z.array(z.string().regex(/^[0-9a-f]{8}$/)).min(1),
    /** In the file's order, apart from each other; what lies in none is no part of the model. */
    extents: z.array(z.strictObject({ from: offset, bytes: count })).optional(),
  })
  .refine(({ crc32, extents }) => extents === undefined || extents.length === crc32.length, {
    path: ['extents'],
    message: 'has to have as many entries as crc32',
  })
  .refine(({ bytes, extents = [] }) => extents.every((extent, at) => extent.from + extent.bytes <= (extents[at + 1]?.from ?? bytes)), {
    path: ['extents'],
    message: "has to be in the file's order, without overlaps, and inside the file",
  });

/**
 * What `terabag publish` adds to the source's model.json, which stays as it is beside it: the source's hash is worked out from that, and its
 * files are those of the source. Rows here are `part`, part + parts, part + 2 parts, ... of the source's table; of a keyed table those whose keys
 * belong to the part, with an index of their own.
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
      /** Behind these, copies of the rows that rules give to ids that a keyed table does not have: see namedRows. */
      fallbackRows: count.optional(),
      file: z.string().min(1),
      tensor: z.string().min(1),
      keys: keysSchema.optional(),
    }),
  ),
  /** The files that are here, by path relative to the bundle. */
  files: mapOf(fileSchema),
});

/** The dense part as one ONNX model, in place of dense layers. */
const onnxSchema = z.strictObject({
  /** Path relative to the bundle, inside it; listed in files. */
  file: z.string().min(1),
  /** In any order; each of the model's inputs once. */
  inputs: z
    .array(
      z.strictObject({
        name,
        /** A dense feature, an embedding bag or a sequence. */
        value: name,
        /** The input that gets the lengths of the sequence. */
        lengths: name.optional(),
      }),
    )
    .min(1),
  outputs: z.array(z.strictObject({ name, layer: name, dim })).min(1),
});

export const modelSchema = z.strictObject({
  terabag: z.literal(1),
  name,
  version: z.string().min(1),
  dense: z.array(z.strictObject({ name, dim })),
  tables: z.array(tableSchema),
  nets: z.array(z.strictObject({ name, layers: z.array(layerSchema).min(1) })).min(1),
  /** The nets have no dense layers then. No default: the hash of a model without it stays. */
  onnx: onnxSchema.optional(),
  /** The layer whose value is returned as scores. */
  output: name,
  /** Further layers whose values are returned by their names. No default: the hash of a model without them stays. */
  outputs: z.array(name).min(1).optional(),
  /** By path relative to the bundle. */
  files: mapOf(fileSchema),
  published: publishedSchema.optional(),
});

/** model.json with its defaults; docs/model-json.md says what each field means. @useDeclaredType */
export type ModelSpec = z.output<typeof modelSchema>;
export type TableSpec = z.output<typeof tableSchema>;
export type OnnxSpec = z.output<typeof onnxSchema>;
export type FileSpec = z.output<typeof fileSchema>;
export type PublishedSpec = z.output<typeof publishedSchema>;
export type PublishedPart = PublishedSpec['parts'][number];
