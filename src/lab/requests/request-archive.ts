import { type FileHandle, open } from 'node:fs/promises';
import { TerabagError } from '../../errors.js';
import { fileError } from '../../tables/file-error.js';
import { type SafetensorsHeader, type TensorToWrite, writeSafetensors } from '../../tables/safetensors.js';
import type { CopiedBags, CopiedRequest } from './request-copy.js';

/**
 * Many requests of one model in a safetensors file, all of a feature in one tensor. N requests are in
 *   items                I32 [N]: of each request, -1 where it left them out
 *   dense.NAME           F32: numbers of all requests; starts.dense.NAME, I64 [N + 1]: request r has starts[r] to starts[r + 1]
 *   sparse.BAG.offsets   I64: bag b of all bags has ids offsets[b] to offsets[b + 1]; starts.sparse.BAG, I64 [N + 1]: request r has bags
 *                        starts[r] to starts[r + 1]
 *   sparse.BAG.indices   I32, or I64 where an id needs it; sparse.BAG.weights F32, of weighted bags
 */
const ARCHIVE_KEY = 'terabag.requests';
const VERSION = '1';
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
): AsyncGenerator<CopiedRequest> {
  if (header.metadata[ARCHIVE_KEY] !== VERSION)
    throw damaged(header, `${ARCHIVE_KEY} is ${header.metadata[ARCHIVE_KEY]}, expected ${VERSION}`);
  const file = await open(header.path, 'r').catch((error: unknown) => {
    throw fileError(error, 'requests cannot be read', header.path, 'invalid_argument');
  });
  try {
    const archive = new ArchiveReader(header, file);
    for (let from = 0; from < archive.count; from += REQUESTS_AT_ONCE) {
      const to = Math.min(archive.count, from + REQUESTS_AT_ONCE);
      yield* await archive.read(from, to);
      onProgress(Math.round((to / archive.count) * header.fileBytes), header.fileBytes);
    }
  } finally {
    await file.close();
  }
}

const damaged = ({ path }: SafetensorsHeader, what: string): TerabagError =>
  new TerabagError('invalid_argument', `not a sound file of requests: ${what}: ${path}`, { path });

const ARRAYS = { F32: Float32Array, I32: Int32Array, I64: BigInt64Array } as const;
type ArrayOf<T extends keyof typeof ARRAYS> = InstanceType<(typeof ARRAYS)[T]>;

class ArchiveReader {
  readonly count: number;
  readonly #dense: readonly string[];
  readonly #bags: readonly string[];

  constructor(
    private readonly header: SafetensorsHeader,
    private readonly file: FileHandle,
  ) {
    const named = (prefix: string): string[] =>
      [...header.tensors.keys()].filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length));
    const items = header.tensors.get('items');
    if (items === undefined) throw damaged(header, 'items is missing, expected I32');
    this.count = items.shape[0] ?? 0;
    this.#dense = named('starts.dense.');
    this.#bags = named('starts.sparse.');
  }

  /** Requests from to to - 1. */
  async read(from: number, to: number): Promise<CopiedRequest[]> {
    const items = await this.#slice('items', ['I32'], from, to);
    const dense = await this.#each(this.#dense, (name) => this.#readDense(name, from, to));
    const sparse = await this.#each(this.#bags, (name) => this.#readBags(name, from, to));
    const of = <T>(features: readonly (readonly [string, readonly T[]])[], r: number): Record<string, T> =>
      Object.fromEntries(features.map(([name, values]) => [name, values[r] as T]));
    return Array.from(items, (count, r) => ({ ...(count >= 0 && { items: count }), dense: of(dense, r), sparse: of(sparse, r) }));
  }

  async #each<T>(names: readonly string[], read: (name: string) => Promise<T[]>): Promise<(readonly [string, T[]])[]> {
    const all: (readonly [string, T[]])[] = [];
    for (const name of names) all.push([name, await read(name)]);
    return all;
  }

  async #readDense(name: string, from: number, to: number): Promise<Float32Array[]> {
    const starts = await this.#numbers(`starts.dense.${name}`, from, to + 1);
    const values = await this.#slice(`dense.${name}`, ['F32'], starts[0] ?? 0, starts.at(-1) ?? 0);
    return parts(values, starts);
  }

  async #readBags(name: string, from: number, to: number): Promise<CopiedBags[]> {
    const starts = await this.#numbers(`starts.sparse.${name}`, from, to + 1);
    const [firstBag = 0, lastBag = 0] = [starts[0], starts.at(-1)];
    const offsets = await this.#numbers(`sparse.${name}.offsets`, firstBag, lastBag + 1);
    const edges = starts.map((bag) => offsets[bag - firstBag] ?? 0);
    const slice = <T extends keyof typeof ARRAYS>(field: string, dtypes: readonly T[]): Promise<ArrayOf<T>> =>
      this.#slice(`sparse.${name}.${field}`, dtypes, edges[0] ?? 0, edges.at(-1) ?? 0);
    const indices = parts(await slice('indices', ['I32', 'I64']), edges);
    const weights = this.header.tensors.has(`sparse.${name}.weights`) ? parts(await slice('weights', ['F32']), edges) : null;
    return indices.map((ids, r) => {
      const own = offsets.slice((starts[r] ?? 0) - firstBag, (starts[r + 1] ?? 0) - firstBag + 1);
      const bags = { indices: ids, offsets: Uint32Array.from(own, (offset) => offset - (edges[r] ?? 0)) };
      return weights === null ? bags : { ...bags, weights: weights[r] as Float32Array };
    });
  }

  /** Int64 as numbers that never fall: places in another tensor. */
  async #numbers(name: string, from: number, to: number): Promise<number[]> {
    const numbers = Array.from(await this.#slice(name, ['I64'], from, to), Number);
    const fallsAt = numbers.findIndex((value, index) => value < (numbers[index - 1] ?? 0));
    if (fallsAt >= 0) throw damaged(this.header, `${name} falls at ${from + fallsAt}, ${numbers[fallsAt]}`);
    return numbers;
  }

  async #slice<T extends keyof typeof ARRAYS>(name: string, dtypes: readonly T[], from: number, to: number): Promise<ArrayOf<T>> {
    const tensor = this.header.tensors.get(name);
    const dtype = dtypes.find((candidate) => candidate === tensor?.dtype);
    if (tensor === undefined || dtype === undefined)
      throw damaged(this.header, `${name} is ${tensor?.dtype ?? 'missing'}, expected ${dtypes}`);
    const length = tensor.shape.length === 1 ? (tensor.shape[0] as number) : 0;
    if (to > length) throw damaged(this.header, `${name} has ${length} values, needed are ${to}`);
    const Values = ARRAYS[dtype];
    const values = new Values(to - from);
    const position = tensor.byteOffset + from * Values.BYTES_PER_ELEMENT;
    const bytes = new Uint8Array(values.buffer);
    for (let at = 0; at < bytes.length; ) {
      const { bytesRead } = await this.file.read(bytes, at, bytes.length - at, position + at);
      if (bytesRead === 0) throw damaged(this.header, 'it ended while it was read');
      at += bytesRead;
    }
    return values as ArrayOf<T>;
  }
}

/** What lies between each edge and the next, counted from the first. */
function parts<T extends Float32Array | Int32Array | BigInt64Array>(values: T, edges: readonly number[]): T[] {
  const [first = 0] = edges;
  return edges.slice(1).map((end, r) => values.slice((edges[r] ?? 0) - first, end - first) as T);
}
