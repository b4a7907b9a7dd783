import { join } from 'node:path';
import { TerabagError } from '../../errors.js';
import type { Extent } from '../../tables/blocks.js';
import { readSafetensorsHeader, type SafetensorsHeader } from '../../tables/safetensors.js';
import {
  badCheckpoint,
  type Checkpoint,
  type CheckpointTensor,
  checkCover,
  type Dtype,
  isCounts,
  type Piece,
  type Refuse,
  refuser,
  rowMajor,
} from '../checkpoint.js';
import { insideCheckpoint } from '../inside.js';
import type { CheckpointFiles } from '../open-files.js';
import { PickleCall, PickleDict, PickleGlobal, PickleList, PickleTuple, type PickleValue, readPickle } from '../pickle.js';
import { countsOf, TORCH_DTYPES, TORCH_GLOBALS } from '../torch-pickle.js';
import { looksLikeZip, readTorchZip } from './torch-save.js';

export const METADATA_FILE = '.metadata';
/** A few hundred bytes for each tensor and each chunk of one. */
const MOST_METADATA_BYTES = 256 * 2 ** 20;

const METADATA = 'torch.distributed.checkpoint.metadata';
const GLOBALS: ReadonlySet<string> = new Set([
  ...TORCH_GLOBALS,
  ...[
    'Metadata',
    'TensorStorageMetadata',
    'BytesStorageMetadata',
    'ChunkStorageMetadata',
    'TensorProperties',
    'MetadataIndex',
    'StorageMeta',
    '_MEM_FORMAT_ENCODING',
  ].map((name) => `${METADATA}.${name}`),
  'torch.distributed.checkpoint.filesystem._StorageInfo',
  'torch.distributed.checkpoint.filesystem._StoragePrefix',
  'pathlib.PosixPath',
  'pathlib.PurePosixPath',
  'pathlib.WindowsPath',
  'pathlib._local.PosixPath',
]);

interface Chunk {
  readonly offsets: readonly number[];
  readonly sizes: readonly number[];
}

interface Stored extends Extent {
  readonly file: string;
}

/** A directory that torch.distributed.checkpoint wrote: what each tensor's chunks are, and where in which file each lies. */
export async function readDistributed(files: CheckpointFiles, directory: string): Promise<Checkpoint> {
  const path = join(directory, METADATA_FILE);
  const refuse = refuser(path);
  const bytes = await files.size(path);
  if (bytes > MOST_METADATA_BYTES) throw refuse(`metadata of ${bytes} bytes, the limit is ${MOST_METADATA_BYTES}`);
  const root = fieldsOf(readPickle(await files.read(path, 0, bytes), { globals: GLOBALS, refuse }), 'Metadata', refuse);
  const stored = storedChunks(root.get('storage_data'), refuse);
  const skipped = new Map<string, string>();
  const marks = new Map<string, Extent[]>();
  const chunkFiles = new ChunkFiles(files, directory, marks);
  const tensors = new Map<string, CheckpointTensor>();
  for (const [name, value] of dictOf(root.get('state_dict_metadata'), 'state_dict_metadata', refuse).entries) {
    if (typeof name !== 'string' || !(value instanceof PickleCall) || value.global.name !== 'TensorStorageMetadata') continue;
    const described = describedTensor(name, value, refuse);
    if (typeof described === 'string') skipped.set(name, described);
    else {
      const { dtype, shape, chunks } = described;
      checkCover(name, shape, chunks, refuse);
      tensors.set(name, { name, dtype, shape, pieces: () => chunkFiles.pieces(name, dtype, chunks, stored, refuse) });
    }
  }
  return { path: directory, kind: 'torch.distributed.checkpoint', tensors, inModelOrder: false, skipped, marks };
}

/** What a call of a dataclass was given. */
function fieldsOf(value: PickleValue | undefined, kind: string, refuse: Refuse): PickleDict {
  if (value instanceof PickleCall && value.global.name === kind && value.state instanceof PickleDict) return value.state;
  throw refuse(`metadata has no sound ${kind}`);
}

function dictOf(value: PickleValue | undefined, what: string, refuse: Refuse): PickleDict {
  if (value instanceof PickleDict) return value;
  throw refuse(`metadata has no sound ${what}`);
}

/** A text says why it cannot be served. */
function describedTensor(
  name: string,
  call: PickleCall,
  refuse: Refuse,
): { dtype: Dtype; shape: readonly number[]; chunks: Chunk[] } | string {
  const fields = fieldsOf(call, 'TensorStorageMetadata', refuse);
  const properties = fields.get('properties');
  const state = properties instanceof PickleCall ? properties.state : undefined;
  const dtype = state instanceof PickleTuple ? state.items[0] : state instanceof PickleDict ? state.get('dtype') : undefined;
  const shape = countsOf(fields.get('size'));
  const chunks = fields.get('chunks');
  if (!(dtype instanceof PickleGlobal) || shape === null || !(chunks instanceof PickleList))
    throw refuse(`metadata does not describe a tensor: ${name}`, { tensor: name });
  const known = TORCH_DTYPES.get(dtype.path);
  if (known === undefined) return `its values are ${dtype.path}`;
  const read = chunks.items.map((item) => {
    const chunk = fieldsOf(item, 'ChunkStorageMetadata', refuse);
    const [offsets, sizes] = [countsOf(chunk.get('offsets')), countsOf(chunk.get('sizes'))];
    if (offsets === null || sizes === null) throw refuse(`metadata does not describe a chunk: ${name}`, { tensor: name });
    return { offsets, sizes };
  });
  return { dtype: known, shape, chunks: read };
}

const chunkKey = (name: string, offsets: readonly number[]): string => `${name} ${offsets.join(',')}`;

function storedChunks(value: PickleValue | undefined, refuse: Refuse): Map<string, Stored | string> {
  const stored = new Map<string, Stored | string>();
  for (const [key, info] of dictOf(value, 'storage_data', refuse).entries) {
    const index = fieldsOf(key, 'MetadataIndex', refuse);
    const offsets = countsOf(index.get('offset'));
    const name = index.get('fqn');
    if (typeof name !== 'string' || offsets === null) continue;
    const fields = fieldsOf(info, '_StorageInfo', refuse);
    const [file, from, bytes] = ['relative_path', 'offset', 'length'].map((field) => fields.get(field));
    if (typeof file !== 'string' || !isCounts([from, bytes]))
      throw refuse(`metadata does not say where a chunk lies: ${name}`, { tensor: name });
    const transformed = fields.get('transform_descriptors');
    const isTransformed = transformed instanceof PickleList || transformed instanceof PickleTuple ? transformed.items.length > 0 : false;
    stored.set(
      chunkKey(name, offsets),
      isTransformed ? 'it was compressed or encrypted' : { file, from: from as number, bytes: bytes as number },
    );
  }
  return stored;
}

/** The files of chunks, whose places in them are looked up when they are asked for. */
class ChunkFiles {
  readonly #headers = new Map<string, Promise<SafetensorsHeader>>();

  constructor(
    private readonly files: CheckpointFiles,
    private readonly directory: string,
    private readonly marks: Map<string, Extent[]>,
  ) {}

  async pieces(
    name: string,
    dtype: Dtype,
    chunks: readonly Chunk[],
    stored: ReadonlyMap<string, Stored | string>,
    refuse: Refuse,
  ): Promise<Piece[]> {
    const pieces: Piece[] = [];
    for (const chunk of chunks) {
      const at = stored.get(chunkKey(name, chunk.offsets));
      if (at === undefined)
        throw refuse(`metadata does not say where a chunk lies: ${name}, offsets ${chunk.offsets.join('x')}`, { tensor: name });
      if (typeof at === 'string') throw refuse(`chunk cannot be read, ${at}: ${name}`, { tensor: name });
      pieces.push({ ...(await this.#piece(name, dtype, chunk, at)), offsets: chunk.offsets });
    }
    return pieces;
  }

  async #piece(name: string, dtype: Dtype, { sizes }: Chunk, { file, from, bytes }: Stored): Promise<Piece> {
    const path = insideCheckpoint(this.directory, file);
    const size = await this.files.size(path);
    if (from + bytes > size)
      throw badCheckpoint(path, `chunk does not lie in its file: ${name}, ends at byte ${from + bytes}, file bytes ${size} (truncated?)`, {
        tensor: name,
      });
    const isZip = bytes >= 2 && looksLikeZip(await this.files.read(path, from, 2));
    const { found, piece } = isZip ? await this.#ofZip(path, { from, bytes }) : await this.#ofSafetensors(path, name);
    if (found.dtype !== dtype || found.shape.join('x') !== sizes.join('x'))
      throw badCheckpoint(
        path,
        `chunk is not what the metadata says: ${name}, ${found.dtype} ${found.shape.join('x')}, expected ${dtype} ${sizes.join('x')}`,
        { tensor: name },
      );
    return piece;
  }

  /** Each chunk is a whole zip of torch.save, of one tensor. */
  async #ofZip(path: string, extent: Extent): Promise<{ found: Pick<CheckpointTensor, 'dtype' | 'shape'>; piece: Piece }> {
    const { tensors, directory } = await readTorchZip(this.files, path, extent);
    const [tensor] = tensors.values();
    if (tensor === undefined || tensors.size > 1)
      throw badCheckpoint(path, `chunk has ${tensors.size} tensors, expected 1: from byte ${extent.from}`);
    const [piece] = await tensor.pieces();
    this.marks.set(path, [...(this.marks.get(path) ?? []), directory]);
    return { found: tensor, piece: piece as Piece };
  }

  async #ofSafetensors(path: string, name: string): Promise<{ found: Pick<CheckpointTensor, 'dtype' | 'shape'>; piece: Piece }> {
    const reading = this.#headers.get(path) ?? readSafetensorsHeader(path);
    this.#headers.set(path, reading);
    const header = await reading.catch((error: unknown) => {
      const { message, details } = TerabagError.from(error);
      throw new TerabagError('bad_checkpoint', message, details, { cause: error });
    });
    const info = header.tensors.get(name);
    if (info === undefined) throw badCheckpoint(path, `no such tensor in the file, though the metadata says so: ${name}`, { tensor: name });
    const { dtype, shape, byteOffset } = info;
    const piece = { path, byteOffset, offsets: shape.map(() => 0), sizes: shape, strides: rowMajor(shape), known: null, header: name };
    return { found: { dtype: dtype as Dtype, shape }, piece };
  }
}
