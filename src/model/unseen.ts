import { z } from 'zod';

/** What becomes of an id that its table does not have. native/kernels/embedding_bag.h says what a kernel does then. */
export const UNSEEN_POLICIES = ['reject', 'zero', 'default', 'hash', 'skip'] as const;
/** @useDeclaredType */
export type UnseenPolicy = (typeof UNSEEN_POLICIES)[number];

const finite32 = z.number().refine((value) => Number.isFinite(Math.fround(value)), 'has to be finite in float32');

/** A field of tables, and of the layers that read ids; which fields go with which policy, id-rules.ts checks. */
export const unseenSchema = z.strictObject({
  policy: z.enum(UNSEEN_POLICIES),
  /** default: a row of the table. */
  row: z.number().int().min(0).max(Number.MAX_SAFE_INTEGER).optional(),
  /** default: dim values. */
  vector: z.array(finite32).min(1).optional(),
  /** hash: ids get rows 0 to rows - 1; all when left out. */
  rows: z.number().int().min(1).max(Number.MAX_SAFE_INTEGER).optional(),
});

const in64Bits = (digits: string): boolean => BigInt(digits) >= -(2n ** 63n) && BigInt(digits) < 2n ** 64n;

/** An id as JSON carries it: digits where a number is not exact. */
export const idSchema = z.union([
  z.number().int(),
  z
    .string()
    .regex(/^-?\d{1,20}$/, 'has to be decimal digits')
    .refine((digits) => !/^-?\d{1,20}$/.test(digits) || in64Bits(digits), 'has to be an integer of 64 bits'),
]);

/** Of the layers that read ids. No defaults: the hash of a model without them stays. */
export const idFields = {
  /** In place of the table's. */
  unseen: unseenSchema.optional(),
  /** Is skipped, whether or not the table has it. */
  paddingId: idSchema.optional(),
};

/**
 * What model.json says of ids that a table does not have.
 * @useDeclaredType
 */
export type UnseenSpec = z.output<typeof unseenSchema>;
