import fc from 'fast-check';
import type { BagsInput, Indices, PredictRequest } from '../../src/predictor/predictor.js';
import { READERS, type Reader, rowsOf } from './sequence-model.js';

/** The same ids in every form that requests may have them. */
const FORMS: readonly ((ids: readonly number[]) => Indices)[] = [
  (ids) => Int32Array.from(ids),
  (ids) => BigInt64Array.from(ids, BigInt),
  (ids) => ids,
  (ids) => ids.map(String),
  (ids) => ids.map(BigInt),
];

export interface Given {
  readonly reader: Reader;
  readonly bags: readonly (readonly number[])[];
  readonly form: number;
}

const givenOf = (reader: Reader, items: number): fc.Arbitrary<Given> =>
  fc
    .record({
      once: fc.boolean(),
      // Few ids: most are there several times.
      bags: fc.array(fc.array(fc.integer({ min: 0, max: Math.min(9, rowsOf(reader) - 1) }), { maxLength: 8 }), {
        minLength: items,
        maxLength: items,
      }),
      form: fc.nat(FORMS.length - 1),
    })
    .map(({ once, bags, form }) => ({ reader, form, bags: once ? bags.slice(0, 1) : bags }));

/** Of the model of sequence-model.ts. */
export const sequenceRequests = fc
  .integer({ min: 1, max: 5 })
  .chain((items) => fc.tuple(...READERS.map((reader) => givenOf(reader, items))).map((given) => ({ items, given })));

function inputOf({ reader, bags, form }: Given): BagsInput {
  const offsets = [0];
  for (const bag of bags) offsets.push((offsets.at(-1) as number) + bag.length);
  const ids = bags.flat();
  return {
    indices: (FORMS[form] as (ids: readonly number[]) => Indices)(ids),
    offsets,
    ...(reader.pooling === 'weighted_mean' && { weights: ids.map((_, i) => (i % 5) / 4 - 0.25) }),
  };
}

export const requestOf = (items: number, given: readonly Given[]): PredictRequest => ({
  items,
  dense: { dense: Array.from({ length: items }, (_, item) => item / 2) },
  sparse: Object.fromEntries(given.map((each) => [each.reader.name, inputOf(each)])),
});
