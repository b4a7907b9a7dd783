import fc from 'fast-check';
import type { BagsInput, Indices, PredictRequest } from '../../src/predictor/predictor.js';
import { DENSE, ROWS } from './small-model.js';

/** The bag layers of the small model, with the table that each reads. */
export const LAYERS = [
  { name: 'sum', table: 't0', rows: ROWS[0] as number },
  { name: 'mean', table: 't1', rows: ROWS[1] as number },
  { name: 'weighted', table: 't2', rows: ROWS[2] as number },
] as const;

export interface ItemsRequest {
  readonly items: number;
  readonly request: PredictRequest;
}

/** Every form in which ids may be given. */
const FORMS: readonly ((ids: readonly number[]) => Indices)[] = [
  (ids) => Int32Array.from(ids),
  (ids) => Uint32Array.from(ids),
  (ids) => BigInt64Array.from(ids, BigInt),
  (ids) => [...ids],
  (ids) => ids.map(BigInt),
  (ids) => ids.map(String),
  (ids) => ids.map((id, at) => [id, BigInt(id), `0${id}`][at % 3] as number | bigint | string),
];

const weight = fc.oneof(
  { weight: 8, arbitrary: fc.integer({ min: -64_000, max: 64_000 }).map((value) => value / 64) },
  { weight: 1, arbitrary: fc.constantFrom(0, -0) },
);

function bags(layer: (typeof LAYERS)[number], numBags: number, minIds: number): fc.Arbitrary<BagsInput> {
  return fc
    .record({
      lengths: fc.array(fc.integer({ min: minIds, max: 6 }), { minLength: numBags, maxLength: numBags }),
      form: fc.constantFrom(...FORMS),
      typed: fc.constantFrom(
        (offsets: number[]) => Int32Array.from(offsets),
        (offsets: number[]) => Uint32Array.from(offsets),
        (offsets: number[]) => BigInt64Array.from(offsets, BigInt),
        (offsets: number[]) => offsets,
        (offsets: number[]) => offsets.map((offset, at) => (at % 2 === 0 ? offset : BigInt(offset))),
      ),
      floats: fc.boolean(),
    })
    .chain(({ lengths, form, typed, floats }) => {
      const offsets = [0];
      for (const length of lengths) offsets.push((offsets.at(-1) as number) + length);
      const count = offsets.at(-1) as number;
      return fc
        .record({
          ids: fc.array(fc.nat(layer.rows - 1), { minLength: count, maxLength: count }),
          weights: fc.array(weight, { minLength: count, maxLength: count }),
        })
        .map(({ ids, weights }) => ({
          indices: form(ids),
          offsets: typed(offsets),
          ...(layer.name === 'weighted' && { weights: floats ? Float32Array.from(weights) : weights }),
        }));
    });
}

/** A request that the small model answers; minIds is the least number of ids per bag. */
export function validRequest(options: { readonly minItems: number; readonly minIds: number }): fc.Arbitrary<ItemsRequest> {
  return fc
    .record({
      items: fc.oneof(fc.constantFrom(options.minItems, 1, 2), fc.integer({ min: options.minItems, max: 9 })),
      perItem: fc.tuple(fc.boolean(), fc.boolean(), fc.boolean(), fc.boolean()),
      named: fc.boolean(),
      floats: fc.boolean(),
    })
    .chain(({ items, perItem: [densePerItem, ...bagsPerItem], named, floats }) => {
      const denseLength = (densePerItem ? items : 1) * DENSE;
      const [sum, mean, weighted] = LAYERS.map((layer, at) => bags(layer, bagsPerItem[at] ? items : 1, options.minIds));
      return fc
        .record({
          dense: fc.array(fc.integer({ min: -256, max: 256 }), { minLength: denseLength, maxLength: denseLength }),
          sum: sum as fc.Arbitrary<BagsInput>,
          mean: mean as fc.Arbitrary<BagsInput>,
          weighted: weighted as fc.Arbitrary<BagsInput>,
        })
        .map(({ dense, ...sparse }) => {
          const values = dense.map((value) => value / 256);
          const deducible = items > 0 && (densePerItem || bagsPerItem.includes(true) || items === 1);
          return {
            items,
            request: { ...((named || !deducible) && { items }), dense: { dense: floats ? Float32Array.from(values) : values }, sparse },
          };
        });
    });
}

/** A request with faults, and what the error has to say of the first. */
export interface BrokenRequest {
  readonly what: string;
  readonly request: PredictRequest;
  readonly code: 'index_out_of_range' | 'invalid_argument' | 'bad_offsets';
  readonly details: Readonly<Record<string, unknown>>;
}

type Layer = (typeof LAYERS)[number];
const offsetsOf = (input: BagsInput): number[] => Array.from(input.offsets as ArrayLike<number>, Number);
const bagAt = (offsets: readonly number[], position: number): number => offsets.findIndex((_, b) => position < (offsets[b + 1] as number));

/** An id replaced at a position, in every form that holds it. */
function brokenId(layer: Layer, input: BagsInput): fc.Arbitrary<Omit<BrokenRequest, 'request'> & { input: BagsInput }> {
  const ids = Array.from(input.indices as ArrayLike<number | bigint>, Number);
  const position = fc.nat(ids.length - 1);
  const replaced = (at: number, value: unknown): unknown[] => ids.map((id, i) => (i === at ? value : id));
  const out = (at: number, value: unknown, what: string, indices: Indices) => ({
    what: `${what} ${String(value)}`,
    code: 'index_out_of_range' as const,
    details: { table: layer.table, bag: bagAt(offsetsOf(input), at), position: at, index: toldId(value), rows: String(layer.rows) },
    input: { ...input, indices },
  });
  const int32 = fc.constantFrom(layer.rows, layer.rows + 1, -1, 2 ** 31 - 1, -(2 ** 31));
  const uint32 = fc.constantFrom(layer.rows, 2 ** 31, 2 ** 32 - 1);
  const int64 = fc.constantFrom(BigInt(layer.rows), -1n, 2n ** 31n, 2n ** 32n, 2n ** 62n, 2n ** 63n - 1n, -(2n ** 63n));
  const any = fc.constantFrom(
    layer.rows,
    -1,
    2 ** 31,
    2 ** 32,
    2 ** 53,
    1e300,
    2n ** 63n,
    -(2n ** 64n),
    2n ** 200n,
    String(layer.rows),
    '-1',
    '18446744073709551617',
  );
  const strange = fc.constantFrom(
    1.5,
    -0.5,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    '',
    ' 3',
    '1e2',
    '0x1',
    '1.5',
    null,
    undefined,
    {},
    true,
  );
  return fc.oneof(
    fc.tuple(position, int32).map(([at, value]) => out(at, value, 'int32 id', Int32Array.from(replaced(at, value) as number[]))),
    fc.tuple(position, uint32).map(([at, value]) => out(at, value, 'uint32 id', Uint32Array.from(replaced(at, value) as number[]))),
    fc.tuple(position, int64).map(([at, value]) =>
      out(
        at,
        value,
        'int64 id',
        BigInt64Array.from(replaced(at, value), (id) => BigInt(id as number)),
      ),
    ),
    fc.tuple(position, any).map(([at, value]) => out(at, value, 'id', replaced(at, value) as number[])),
    fc.tuple(position, strange).map(([at, value]) => ({
      what: `id ${String(value)}`,
      code: 'invalid_argument' as const,
      details: { table: layer.table, bag: bagAt(offsetsOf(input), at), position: at },
      input: { ...input, indices: replaced(at, value) as number[] },
    })),
  );
}

function brokenOffsets(layer: Layer, input: BagsInput): fc.Arbitrary<Omit<BrokenRequest, 'request'> & { input: BagsInput }> {
  const offsets = offsetsOf(input);
  const last = offsets.length - 1;
  const bad = (what: string, position: number, given: unknown) => ({
    what: `offsets ${what}`,
    code: 'bad_offsets' as const,
    details: { table: layer.table, layer: layer.name, bag: Math.max(0, position - 1), position },
    input: { ...input, offsets: given as number[] },
  });
  const at = (position: number, value: unknown): unknown[] => offsets.map((offset, i) => (i === position ? value : offset));
  return fc.oneof(
    fc.constantFrom(1, -1, 0.5, Number.NaN, null).map((value) => bad('that do not start at 0', 0, at(0, value))),
    fc.constant(bad('without an entry', 0, [])),
    fc
      .tuple(fc.integer({ min: 1, max: last }), fc.constantFrom(-1, 0.5, Number.NaN, Number.NEGATIVE_INFINITY, '1', null, -1n))
      .map(([position, value]) => bad(`with ${String(value)}`, position, at(position, value))),
    // Every bag has an id, so that an offset that jumps makes the next one smaller; only the last has to be the number of ids.
    fc
      .integer({ min: 1, max: last })
      .map((position) => bad('past the end', position === last ? last : position + 1, at(position, (offsets[last] as number) + 1000))),
    fc.constant(bad('that end early', last, at(last, (offsets[last] as number) - 1))),
    fc.constant(bad('typed, that do not start at 0', 0, Int32Array.from(at(0, -1) as number[]))),
    fc.constant(bad('typed, past the end', last, Uint32Array.from(at(last, 2 ** 32 - 1) as number[]))),
  );
}

function brokenShape({ items, request }: ItemsRequest): fc.Arbitrary<BrokenRequest> {
  const invalid = (what: string, change: object, details: Record<string, unknown>): BrokenRequest => ({
    what,
    request: { ...request, ...change } as PredictRequest,
    code: 'invalid_argument',
    details,
  });
  const sparse = (name: string, change: object) => ({
    sparse: { ...request.sparse, [name]: { ...(request.sparse[name] as BagsInput), ...change } },
  });
  const weights = Array.from(request.sparse['weighted']?.weights ?? []);
  const { weighted: _, ...others } = request.sparse;
  return fc.constantFrom(
    invalid('a weight too many', sparse('weighted', { weights: [...weights, 1] }), { field: 'sparse.weighted.weights' }),
    invalid('a weight too few', sparse('weighted', { weights: Float32Array.from(weights.slice(1)) }), { field: 'sparse.weighted.weights' }),
    invalid('no weights', sparse('weighted', { weights: undefined }), { field: 'sparse.weighted.weights' }),
    invalid('a weight that is no number', sparse('weighted', { weights: weights.map(() => 'x') }), { field: 'sparse.weighted.weights' }),
    invalid('a bigint weight', sparse('weighted', { weights: weights.map(() => 1n) }), { field: 'sparse.weighted.weights' }),
    invalid('weights of a bag that takes none', sparse('sum', { weights: [1] }), { field: 'sparse.sum.weights' }),
    invalid('no bags', { sparse: others }, { field: 'sparse.weighted' }),
    invalid('bags that are null', { sparse: { ...request.sparse, mean: null } }, { field: 'sparse.mean' }),
    invalid('indices that are no array', sparse('mean', { indices: 7 }), { field: 'sparse.mean.indices' }),
    invalid('indices that are null', sparse('mean', { indices: null }), { field: 'sparse.mean.indices' }),
    invalid('offsets that are missing', sparse('mean', { offsets: undefined }), { field: 'sparse.mean.offsets' }),
    invalid('an unknown bag', { sparse: { ...request.sparse, other: request.sparse['sum'] } }, { field: 'sparse.other' }),
    invalid('an unknown dense feature', { dense: { ...request.dense, other: [1] } }, { field: 'dense.other' }),
    invalid('no dense feature', { dense: {} }, { field: 'dense.dense' }),
    invalid('dense that is null', { dense: null }, { field: 'dense' }),
    invalid('dense of another length', { dense: { dense: new Float32Array(items * DENSE + 1) } }, { field: 'dense.dense' }),
    invalid('dense with a hole', { dense: { dense: new Array(DENSE) } }, { field: 'dense.dense', position: 0 }),
    invalid('dense with a string', { dense: { dense: ['1', 1, 1, 1, 1] } }, { field: 'dense.dense', position: 0 }),
    invalid('dense rows of other items', { items, dense: { dense: new Float32Array((items + 2) * DENSE) } }, { field: 'dense' }),
    invalid('a negative number of items', { items: -1 }, { field: 'items' }),
    invalid('half an item', { items: 0.5 }, { field: 'items' }),
    invalid('too many items', { items: 2 ** 40 }, { field: 'items' }),
  );
}

/** A valid request with exactly one fault. */
export const brokenRequest: fc.Arbitrary<BrokenRequest> = validRequest({ minItems: 1, minIds: 1 }).chain((valid) => {
  const { request } = valid;
  return fc.oneof(
    {
      weight: 2,
      arbitrary: fc.constantFrom(...LAYERS).chain((layer) => {
        const input = request.sparse[layer.name] as BagsInput;
        return fc
          .oneof(brokenId(layer, input), brokenOffsets(layer, input))
          .map(({ input: broken, ...rest }) => ({ ...rest, request: { ...request, sparse: { ...request.sparse, [layer.name]: broken } } }));
      }),
    },
    { weight: 1, arbitrary: brokenShape(valid) },
  );
});

/** A valid request with faults in two or three layers: offsets are checked before all ids, and both in the order of the layers. */
export const brokenInSeveralLayers: fc.Arbitrary<BrokenRequest> = validRequest({ minItems: 1, minIds: 1 }).chain(({ request }) =>
  fc.shuffledSubarray([...LAYERS], { minLength: 2 }).chain((layers) =>
    fc
      .tuple(
        ...layers.map((layer) => {
          const input = request.sparse[layer.name] as BagsInput;
          return fc.oneof({ weight: 4, arbitrary: brokenId(layer, input) }, { weight: 1, arbitrary: brokenOffsets(layer, input) });
        }),
      )
      .map((broken) => {
        const faults = broken.map((fault, at) => ({ ...fault, layer: layers[at] as Layer }));
        const place = ({ code, layer }: (typeof faults)[number]): number => (code === 'bad_offsets' ? 0 : 10) + LAYERS.indexOf(layer);
        const [first] = faults.sort((a, b) => place(a) - place(b)) as [(typeof faults)[number]];
        const inputs = faults.map(({ layer, input }) => [layer.name, input]);
        return {
          what: faults.map(({ what, layer }) => `${what} in ${layer.name}`).join(', '),
          request: { ...request, sparse: { ...request.sparse, ...Object.fromEntries(inputs) } },
          code: first.code,
          details: first.details,
        };
      }),
  ),
);

/** Errors tell the first 40 characters of an id. */
const toldId = (id: unknown): string => String(id).replace(/^(.{40}).+$/, '$1...');
