import { z } from 'zod';
import { type LayerType, name } from './layer-type.js';
import { POOLING_NAMES } from './pooling.js';
import { ROW_LAYERS } from './row-layers.js';
import { SEQUENCE_LAYERS } from './sequence-layers.js';
import { idFields } from './unseen.js';

/** The layers that model.json names: each one operation (ops.ts), or a few; and those that read ids. */
const LAYERS = [...ROW_LAYERS, ...SEQUENCE_LAYERS] as const;

/** Reads ids of the request from one table; no layer of the dense net. */
export const embeddingBagSchema = z.strictObject({
  type: z.literal('embedding_bag'),
  name,
  table: name,
  pooling: z.enum(POOLING_NAMES).default('sum'),
  weighted: z.boolean().default(false),
  ...idFields,
  // What requests are like, for plans that are made without a sample of them. No defaults: the hash of a model without them stays.
  /** Mean number of ids per bag; a request has at most 2^32 - 1 in all. */
  poolingFactor: z
    .number()
    .min(0)
    .max(2 ** 32 - 1)
    .optional(),
  /** user: given once per request; item: once per item. */
  side: z.enum(['user', 'item']).optional(),
});

/** Reads ids of the request like a bag, without pooling their rows; no layer of the dense net either. */
export const embeddingSequenceSchema = z.strictObject({
  type: z.literal('embedding_sequence'),
  name,
  table: name,
  maxLength: z.number().int().min(1).max(65_535),
  /** Which ids are kept of a bag that has more. */
  truncate: z.enum(['last', 'first']).optional(),
  ...idFields,
  poolingFactor: embeddingBagSchema.shape.poolingFactor,
  side: embeddingBagSchema.shape.side,
});

type DenseSchema = (typeof LAYERS)[number]['schema'];
export type EmbeddingBagSpec = z.output<typeof embeddingBagSchema>;
export type EmbeddingSequenceSpec = z.output<typeof embeddingSequenceSchema>;
/** A layer of the dense net. */
export type DenseLayerSpec = z.output<DenseSchema>;

export const layerSchema = z.discriminatedUnion('type', [
  embeddingBagSchema,
  embeddingSequenceSchema,
  ...(LAYERS.map(({ schema }) => schema) as [DenseSchema, ...DenseSchema[]]),
]);

const BY_TYPE = new Map<string, LayerType<DenseSchema>>(
  LAYERS.map((layer) => [layer.schema.shape.type.value, layer as unknown as LayerType<DenseSchema>]),
);

export const layerTypeOf = (layer: DenseLayerSpec): LayerType<DenseSchema> => BY_TYPE.get(layer.type) as LayerType<DenseSchema>;
