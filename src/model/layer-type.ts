import { z } from 'zod';
import type { TerabagError } from '../errors.js';
import type { Op, OpAttributes } from './ops.js';

/** What a layer of model.json is made of: the fields of its schema, and the operations that it becomes. */

export const name = z.string().min(1).max(256);
export const tensor = z.string().min(1);
/** 0, or a normal number of float32: none that would become 0 or infinite there. */
export const isFloat32 = (value: number): boolean => value === 0 || (value >= 2 ** -126 && Number.isFinite(Math.fround(value)));

/** What is added to a variance. */
export const epsilon = z
  .number()
  .min(0)
  .refine(isFloat32, 'has to be 0, or a number that float32 can hold: from 1.2e-38 to 3.4e38')
  .default(1e-5);

/** A value that a layer reads. */
export interface Value {
  readonly number: number;
  /** Of a position, when it is a sequence. */
  readonly dim: number;
  readonly stage: number;
  /** At most, of a sequence; 0: a vector. */
  readonly positions: number;
  /** How many of these were appended to what the request gives. */
  readonly appended: number;
}

/** An operation of a layer. Its inputs are values, or numbers: 1 is the operation before it, 2 the one before that. */
export interface Step extends Partial<OpAttributes> {
  /** The last step has the layer's name. */
  readonly name: string;
  readonly op: Op;
  readonly dim: number;
  readonly inputs: readonly (Value | number)[];
}

/** The layer's surroundings, for its checks. All but refuse throw what it gives: bad_model with the place of the layer and, if given, the key in it. */
export interface LayerContext {
  readonly inputs: readonly Value[];
  /** Dim of the first input. */
  readonly dim: number;
  /** Positions of the first input; 0: a vector. */
  readonly positions: number;
  refuse(what: string, key?: string): TerabagError;
  /** The inputs have to be of one dim. */
  sameDims(): void;
  /** A tensor has to be [rows, columns], with any rows when none are given; returns them. */
  matrix(key: string, tensor: string, columns: number, rows?: number): number;
  /** A tensor has to be [length], of any of these; null is none. */
  vector(key: string, tensor: string | null, ...lengths: readonly number[]): void;
}

type LayerSchema<Type extends string, Fields extends z.ZodRawShape> = z.ZodObject<
  { type: z.ZodLiteral<Type>; name: typeof name } & Fields,
  z.core.$strict
>;

/**
 * What a layer reads. rows: vectors, or sequences of one length (it is applied position by position then); vectors or sequences: these only;
 * sequence: a sequence, and behind it vectors.
 */
export type Reads = 'rows' | 'vectors' | 'sequences' | 'sequence';

export interface LayerType<Schema extends z.ZodType> {
  readonly schema: Schema;
  readonly reads: Reads;
  /** Names of the values that it reads, in order. */
  readonly inputs: (layer: z.output<Schema>) => readonly string[];
  /** The layer as the dense net runs it, checked; the last step gives the layer's value. */
  readonly steps: (layer: z.output<Schema>, context: LayerContext) => readonly Step[];
}

export function layerType<Type extends string, Fields extends z.ZodRawShape>(
  type: Type,
  fields: Fields,
  rest: Omit<LayerType<LayerSchema<Type, Fields>>, 'schema' | 'reads'> & { readonly reads?: Reads },
): LayerType<LayerSchema<Type, Fields>> {
  const schema = z.strictObject({ type: z.literal(type), name, ...fields }) as unknown as LayerSchema<Type, Fields>;
  return { schema, reads: 'rows', ...rest };
}
