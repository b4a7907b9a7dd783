import { type FileHandle, open } from 'node:fs/promises';
import { type ErrorDetails, TerabagError } from '../../errors.js';
import type { BagsInput, Indices, PredictRequest } from '../../predictor/predictor.js';
import { fileError } from '../../tables/file-error.js';
import { type SafetensorsHeader, type TensorInfo, type TensorToWrite, writeSafetensors } from '../../tables/safetensors.js';
import type { CopiedBags, CopiedRequest } from './request-copy.js';
import { ARRAYS, type ArrayDtype, INTEGERS, requestIntegers, type TensorArray } from './tensor-array.js';

/**
 * Many requests of one model in a safetensors file, all of a feature in one tensor. N requests are in
 *   items                I32 [N]: of each request, -1 where it left them out
 *   dense.NAME           F32: numbers of all requests; starts.dense.NAME, I64 [N + 1]: request r has starts[r] to starts[r + 1]
 *   sparse.BAG.offsets   I64: bag b of all bags has ids offsets[b] to offsets[b + 1]; starts.sparse.BAG, I64 [N + 1]: request r has bags
 *                        starts[r] to starts[r + 1]
 *   sparse.BAG.indices   I32, or I64 where an id needs it; sparse.BAG.weights F32, one per id, of weighted bags
 * Starts and offsets begin at 0, never fall, and end at the length of what they are places in. Readers take I32, U32, I64 and U64 for ids and
 * places, and I32 and I64 for items.
 */
const ARCHIVE_KEY = 'terabag.requests';
const VERSION = '1';
const ITEMS = ['I32', 'I64'] as const;
const REQUESTS_AT_ONCE = 64;
/** While a recording is written, the event loop is free again after so long. */
const TURN_MS = 2;

export const isArchive = ({ metadata }: SafetensorsHeader): boolean => metadata[ARCHIVE_KEY] !== undefined;

/** All have the dense features and bags of the first, with weights where it has them. */
export async function writeRequestArchive(path: string, requests: readonly CopiedRequest[]): Promise<void> {
  const [first] = requests;
  if (first === undefined) throw new TerabagError('invalid_argument', `there is no request to write: ${path}`, { path });
  const itemCounts = Int32Array.from(requests, ({ items = -1 }) => items);
  const tensors: TensorToWrite[] = [{ name: 'items', dtype: 'I32', shape: [requests.length], data: new Uint8Array(itemCounts.buffer) }];
  for (const name of Object.keys(first.dense)) {
    const values = requests.map(({ dense }, r) => own(dense, name) ?? missing('dense feature', name, r));
    tensors.push(starts(`dense.${name}`, values), concatenated(`dense.${name}`, 'F32', values));
  }
  const turns = new Turns();
  for (const [name, { weights }] of Object.entries(first.sparse)) {
    await turns.end();
    const bags = requests.map(({ sparse }, r) => own(sparse, name) ?? missing('bag', name, r));
    const counts = bags.map(({ offsets }) => ({ length: Math.max(0, offsets.length - 1) }));
    const wide = bags.some(({ indices }) => indices instanceof BigInt64Array);
    const indices = bags.map((bag) => (wide && bag.indices instanceof Int32Array ? BigInt64Array.from(bag.indices, BigInt) : bag.indices));
    tensors.push(
      starts(`sparse.${name}`, counts),
      allOffsets(name, bags),
      concatenated(`sparse.${name}.indices`, wide ? 'I64' : 'I32', indices),
    );
    if (weights === undefined) {
      const odd = bags.findIndex((bag) => bag.weights !== undefined);
      if (odd >= 0)
        throw new TerabagError('invalid_argument', `weights of bag are in request ${odd} and not in the first one: ${name}`, {
          name,
          request: odd,
        });
    } else {
      const all = bags.map((bag, r) => bag.weights ?? missing('weights of bag', name, r));
      tensors.push(concatenated(`sparse.${name}.weights`, 'F32', all));
    }
  }
  const known = { dense: Object.keys(first.dense).length, sparse: Object.keys(first.sparse).length };
  for (const [r, { dense, sparse }] of requests.entries()) {
    if (Object.keys(dense).length > known.dense || Object.keys(sparse).length > known.sparse)
      throw new TerabagError('invalid_argument', `request ${r} has features that the first one has not`, { request: r });
  }
  await writeSafetensors(path, tensors, {
    metadata: { [ARCHIVE_KEY]: VERSION },
    check: (written) => checkArchive(written, requests.length),
  });
}

/** Reads an archive that was written as its reader does. */
async function checkArchive(written: SafetensorsHeader, expected: number): Promise<void> {
  let count = 0;
  for await (const _ of readRequestArchive(written)) count++;
  if (count !== expected) throw damaged(written, `it has ${count} requests, expected ${expected}`);
}

const own = <T>(features: Readonly<Record<string, T>>, name: string): T | undefined =>
  Object.hasOwn(features, name) ? features[name] : undefined;

function missing(what: string, name: string, request: number): never {
  throw new TerabagError('invalid_argument', `${what} is in the first request and not in request ${request}: ${name}`, { name, request });
}

type Pieces = readonly (Float32Array | Int32Array | BigInt64Array)[];

function concatenated(name: string, dtype: string, pieces: Pieces): TensorToWrite {
  const length = pieces.reduce((sum, piece) => sum + piece.length, 0);
  return { name, dtype, shape: [length], data: inTurns(pieces) };
}

async function* inTurns(pieces: Pieces): AsyncGenerator<Uint8Array> {
  const turns = new Turns();
  for (const piece of pieces) {
    yield new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength);
    await turns.end();
  }
}

/** Lets others run every few milliseconds. */
class Turns {
  #endsAt = performance.now() + TURN_MS;

  async end(): Promise<void> {
    if (performance.now() < this.#endsAt) return;
    await new Promise((resolve) => setImmediate(resolve));
    this.#endsAt = performance.now() + TURN_MS;
  }
}

function starts(name: string, pieces: readonly { readonly length: number }[]): TensorToWrite {
  const values = new BigInt64Array(pieces.length + 1);
  for (const [r, { length }] of pieces.entries()) values[r + 1] = (values[r] as bigint) + BigInt(length);
  return { name: `starts.${name}`, dtype: 'I64', shape: [values.length], data: new Uint8Array(values.buffer) };
}

function allOffsets(name: string, bags: readonly CopiedBags[]): TensorToWrite {
  const total = bags.reduce((sum, { offsets }) => sum + Math.max(0, offsets.length - 1), 0);
  const values = new BigInt64Array(total + 1);
  let [at, ids] = [0, 0];
  for (const { offsets, indices } of bags) {
    for (const end of offsets.subarray(1)) values[++at] = BigInt(ids + end);
    ids += indices.length;
  }
  return { name: `sparse.${name}.offsets`, dtype: 'I64', shape: [values.length], data: new Uint8Array(values.buffer) };
}

/** Reads an archive as a stream, some requests at a time. */
export async function* readRequestArchive(
  header: SafetensorsHeader,
  onProgress: (doneBytes: number, totalBytes: number) => void = () => undefined,
): AsyncGenerator<PredictRequest> {
  if (header.metadata[ARCHIVE_KEY] !== VERSION)
    throw damaged(header, `${ARCHIVE_KEY} is ${header.metadata[ARCHIVE_KEY]}, expected ${VERSION}`);
  const file = await open(header.path, 'r').catch((error: unknown) => {
    throw fileError(error, 'requests cannot be read', header.path, 'invalid_argument');
  });
  try {
    const archive = await ArchiveReader.open(header, file);
    for (let from = 0; from < archive.count; from += REQUESTS_AT_ONCE) {
      const to = Math.min(archive.count, from + REQUESTS_AT_ONCE);
      yield* await archive.read(from, to);
      onProgress(Math.round((to / archive.count) * header.fileBytes), header.fileBytes);
    }
  } finally {
    await file.close();
  }
}

const damaged = ({ path }: SafetensorsHeader, what: string, details: ErrorDetails = {}): TerabagError =>
  new TerabagError('invalid_argument', `not a sound file of requests: ${what}: ${path}`, { path, ...details });

/** A tensor whose values are places in another: starts, or offsets. */
interface Places {
  readonly name: string;
  /** What the last one has to be, and what that is. */
  readonly end: number;
  readonly of: string;
}

/**
 * What the format says of a whole tensor is checked when it is opened: its length, and the ends of places. That none of them falls, and what
 * items are, is checked of the requests that are read.
 */
class ArchiveReader {
  readonly count: number;
  readonly #dense: readonly string[];
  readonly #bags: readonly string[];

  private constructor(
    private readonly header: SafetensorsHeader,
    private readonly file: FileHandle,
  ) {
    const named = (prefix: string): string[] =>
      [...header.tensors.keys()].filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length));
    this.count = this.#tensor('items', ITEMS).length;
    this.#dense = named('starts.dense.');
    this.#bags = named('starts.sparse.');
  }

  static async open(header: SafetensorsHeader, file: FileHandle): Promise<ArchiveReader> {
    const archive = new ArchiveReader(header, file);
    for (const name of archive.#dense) await archive.#checkPlaces(archive.#denseStarts(name), archive.count + 1);
    for (const name of archive.#bags) {
      await archive.#checkPlaces(archive.#bagStarts(name), archive.count + 1);
      await archive.#checkPlaces(archive.#offsets(name), null);
      archive.#checkWeights(name);
    }
    archive.#refuseStrangers();
    return archive;
  }

  /** Requests from to to - 1. */
  async read(from: number, to: number): Promise<PredictRequest[]> {
    const items = Array.from(await this.#slice('items', ITEMS, from, to), Number);
    const bad = items.findIndex((count) => count < -1);
    if (bad >= 0) throw this.#unsound('items', `${items[bad]}, expected a number of items, or -1 for none`, from + bad);
    const dense = await this.#each(this.#dense, (name) => this.#readDense(name, from, to));
    const sparse = await this.#each(this.#bags, (name) => this.#readBags(name, from, to));
    const of = <T>(features: readonly (readonly [string, readonly T[]])[], r: number): Record<string, T> =>
      Object.fromEntries(features.map(([name, values]) => [name, values[r] as T]));
    return items.map((count, r) => ({ ...(count >= 0 && { items: count }), dense: of(dense, r), sparse: of(sparse, r) }));
  }

  async #each<T>(names: readonly string[], read: (name: string) => Promise<T[]>): Promise<(readonly [string, T[]])[]> {
    const all: (readonly [string, T[]])[] = [];
    for (const name of names) all.push([name, await read(name)]);
    return all;
  }

  async #readDense(name: string, from: number, to: number): Promise<Float32Array[]> {
    const starts = await this.#places(this.#denseStarts(name), from, to + 1);
    const values = await this.#slice(`dense.${name}`, ['F32'], starts[0] ?? 0, starts.at(-1) ?? 0);
    return parts(values as Float32Array, starts);
  }

  async #readBags(name: string, from: number, to: number): Promise<BagsInput[]> {
    const starts = await this.#places(this.#bagStarts(name), from, to + 1);
    const [firstBag = 0, lastBag = 0] = [starts[0], starts.at(-1)];
    const offsets = await this.#places(this.#offsets(name), firstBag, lastBag + 1);
    const edges = starts.map((bag) => offsets[bag - firstBag] ?? 0);
    const slice = (field: string, dtypes: readonly ArrayDtype[]): Promise<TensorArray> =>
      this.#slice(`sparse.${name}.${field}`, dtypes, edges[0] ?? 0, edges.at(-1) ?? 0);
    const indices = parts(requestIntegers((await slice('indices', INTEGERS)) as Int32Array), edges);
    const weighted = this.header.tensors.has(`sparse.${name}.weights`);
    const weights = weighted ? parts((await slice('weights', ['F32'])) as Float32Array, edges) : null;
    return indices.map((ids, r) => {
      const own = offsets.slice((starts[r] ?? 0) - firstBag, (starts[r + 1] ?? 0) - firstBag + 1);
      const bags = { indices: ids, offsets: Uint32Array.from(own, (offset) => offset - (edges[r] ?? 0)) };
      return weights === null ? bags : { ...bags, weights: weights[r] as Float32Array };
    });
  }

  #denseStarts(name: string): Places {
    return this.#placesIn(`starts.dense.${name}`, `dense.${name}`, ['F32']);
  }

  #bagStarts(name: string): Places {
    const offsets = `sparse.${name}.offsets`;
    const { length } = this.#tensor(offsets, INTEGERS);
    if (length === 0) throw this.#unsound(offsets, 'no values, expected one per bag and one more');
    return { name: `starts.sparse.${name}`, end: length - 1, of: `one less than the length of ${offsets}` };
  }

  #offsets(name: string): Places {
    return this.#placesIn(`sparse.${name}.offsets`, `sparse.${name}.indices`, INTEGERS);
  }

  #placesIn(name: string, other: string, dtypes: readonly ArrayDtype[]): Places {
    return { name, end: this.#tensor(other, dtypes).length, of: `the length of ${other}` };
  }

  /** One weight per id. */
  #checkWeights(name: string): void {
    const [weights, indices] = [`sparse.${name}.weights`, `sparse.${name}.indices`];
    if (!this.header.tensors.has(weights)) return;
    const [given, expected] = [this.#tensor(weights, ['F32']).length, this.#tensor(indices, INTEGERS).length];
    if (given !== expected) throw this.#unsound(weights, `${given} values, expected ${expected}, the length of ${indices}`);
  }

  /** What stands under a name of the format and would not be read: a feature without its starts, or a field that there is not. */
  #refuseStrangers(): void {
    const known = new Set([
      ...this.#dense.flatMap((name) => [`starts.dense.${name}`, `dense.${name}`]),
      ...this.#bags.flatMap((name) => [
        `starts.sparse.${name}`,
        ...['offsets', 'indices', 'weights'].map((field) => `sparse.${name}.${field}`),
      ]),
    ]);
    for (const name of this.header.tensors.keys()) {
      if (!/^(?:dense|sparse|starts)\./.test(name) || known.has(name)) continue;
      const [, bag] = /^(sparse\..+)\.(?:offsets|indices|weights)$/s.exec(name) ?? [];
      const starts = bag ?? (name.startsWith('dense.') ? name : undefined);
      const missing = starts !== undefined && !this.header.tensors.has(`starts.${starts}`);
      throw missing
        ? damaged(this.header, `starts.${starts} is missing, expected with ${name}`, { field: `starts.${starts}` })
        : damaged(this.header, `${name} is none of its tensors`, { field: name });
    }
  }

  /** The length, and the ends, which bound the values between: those are checked when they are read. */
  async #checkPlaces(places: Places, expected: number | null): Promise<void> {
    const { name, end, of } = places;
    const { length } = this.#tensor(name, INTEGERS);
    if (expected !== null && length !== expected)
      throw this.#unsound(name, `${length} values, expected ${expected}, one more than items has`);
    const first = (await this.#slice(name, INTEGERS, 0, 1))[0];
    if (Number(first) !== 0) throw this.#unsound(name, `${first}, expected 0`, 0);
    const last = (await this.#slice(name, INTEGERS, length - 1, length))[0];
    if (Number(last) !== end) throw this.#unsound(name, `${last}, expected ${end}, ${of}`, length - 1);
  }

  /** As numbers, which are exact: they never fall, and none is beyond the length of a tensor. */
  async #places({ name, end, of }: Places, from: number, to: number): Promise<number[]> {
    const values = await this.#slice(name, INTEGERS, from, to);
    const numbers = Array.from(values, Number);
    let previous = 0;
    for (const [index, value] of numbers.entries()) {
      if (value < previous)
        throw this.#unsound(name, `${values[index]}, expected ${previous} or more, since places never fall`, from + index);
      if (value > end) throw this.#unsound(name, `${values[index]}, expected at most ${end}, ${of}`, from + index);
      previous = value;
    }
    return numbers;
  }

  #unsound(name: string, what: string, position?: number): TerabagError {
    const at = position === undefined ? '' : ` at ${position}`;
    return damaged(this.header, `${name} has${at} ${what}`, { field: name, ...(position !== undefined && { position }) });
  }

  #tensor(name: string, dtypes: readonly ArrayDtype[]): { tensor: TensorInfo; dtype: ArrayDtype; length: number } {
    const tensor = this.header.tensors.get(name);
    const dtype = dtypes.find((candidate) => candidate === tensor?.dtype);
    if (tensor === undefined || dtype === undefined)
      throw damaged(this.header, `${name} is ${tensor?.dtype ?? 'missing'}, expected ${dtypes.join(', ')}`, { field: name });
    const [length, ...more] = tensor.shape;
    if (length === undefined || more.length > 0) throw this.#unsound(name, `shape [${tensor.shape.join(', ')}], expected one dim`);
    return { tensor, dtype, length };
  }

  async #slice(name: string, dtypes: readonly ArrayDtype[], from: number, to: number): Promise<TensorArray> {
    const { tensor, dtype } = this.#tensor(name, dtypes);
    const Values = ARRAYS[dtype];
    const values = new Values(to - from);
    const position = tensor.byteOffset + from * Values.BYTES_PER_ELEMENT;
    const bytes = new Uint8Array(values.buffer);
    for (let at = 0; at < bytes.length; ) {
      const { bytesRead } = await this.file.read(bytes, at, bytes.length - at, position + at);
      if (bytesRead === 0) throw damaged(this.header, 'it ended while it was read');
      at += bytesRead;
    }
    return values;
  }
}

/** What lies between each edge and the next, counted from the first. */
function parts<T extends Float32Array | Indices>(values: T, edges: readonly number[]): T[] {
  const [first = 0] = edges;
  return edges.slice(1).map((end, r) => values.slice((edges[r] ?? 0) - first, end - first) as T);
}
