import { readdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { z } from 'zod';
import { TerabagError } from '../../errors.js';
import { parseJson } from '../../tables/json.js';
import { readJsonFile } from '../../tables/json-file.js';
import { readSafetensorsHeader, type SafetensorsHeader } from '../../tables/safetensors.js';
import {
  badCheckpoint,
  type Checkpoint,
  type CheckpointTensor,
  type Dtype,
  isCounts,
  isDtype,
  type Piece,
  rowMajor,
} from '../checkpoint.js';
import { insideCheckpoint } from '../inside.js';

export const INDEX_FILE = 'model.safetensors.index.json';
/** The key under which torch.distributed.checkpoint says where in its tensor each part is. */
const SHARDING_INFO = 'DCP_SHARDING_INFO';

/** One safetensors file, or the parts of a distributed one in their directory. */
export async function readSafetensorsFiles(path: string, parts: readonly string[]): Promise<Checkpoint> {
  const found = new Parts(path);
  for (const part of parts) found.add(await header(part));
  return found.checkpoint('safetensors');
}

/** The parts of a directory that has safetensors files and no index: those of ranks that saved what they held. */
export async function safetensorsIn(directory: string): Promise<string[]> {
  const names = await readdir(directory);
  return names
    .filter((name) => name.endsWith('.safetensors'))
    .sort()
    .map((name) => join(directory, name));
}

const indexSchema = z.object({ weight_map: z.record(z.string(), z.string().min(1)) });

/** Files that an index of Hugging Face names, each with the tensors that it says. */
export async function readSafetensorsIndex(path: string): Promise<Checkpoint> {
  const { weight_map: map } = await readJsonFile(path, { what: 'index of safetensors files', code: 'bad_checkpoint' }, indexSchema);
  const directory = dirname(path);
  const found = new Parts(directory);
  const files = new Map<string, string[]>();
  for (const [name, file] of Object.entries(map)) files.set(file, [...(files.get(file) ?? []), name]);
  for (const [file, names] of files) {
    const part = await header(insideCheckpoint(directory, file));
    const missing = names.find((name) => !part.tensors.has(name));
    if (missing !== undefined)
      throw badCheckpoint(part.path, `no such tensor in the file, though ${basename(path)} says so: ${missing}`, { tensor: missing });
    found.add(part, new Set(names));
  }
  return found.checkpoint('safetensors of several files');
}

/** A header as of a checkpoint: what is unsound is the checkpoint's. */
const header = (path: string): Promise<SafetensorsHeader> =>
  readSafetensorsHeader(path).catch((error: unknown) => {
    const { code, message, details } = TerabagError.from(error);
    throw new TerabagError(code === 'bad_table' ? 'bad_checkpoint' : code, message, details, { cause: error });
  });

/** Tensors of several files, whole or in parts. */
class Parts {
  readonly #pieces = new Map<string, { dtype: Dtype; pieces: Piece[] }>();
  readonly #skipped = new Map<string, string>();

  constructor(private readonly path: string) {}

  add(part: SafetensorsHeader, wanted: ReadonlySet<string> | null = null): void {
    const offsets = savedOffsets(part);
    const inOrder = [...part.tensors].sort(([, a], [, b]) => a.byteOffset - b.byteOffset);
    for (const [name, { dtype, shape, byteOffset }] of inOrder) {
      if (wanted !== null && !wanted.has(name)) continue;
      if (!isDtype(dtype)) {
        this.#skipped.set(name, `of dtype ${dtype}`);
        continue;
      }
      const at = offsets?.get(name) ?? shape.map(() => 0);
      const piece = { path: part.path, byteOffset, offsets: at, sizes: shape, strides: rowMajor(shape), known: null, header: name };
      const known = this.#pieces.get(name) ?? { dtype, pieces: [] };
      if (known.dtype !== dtype || (known.pieces.length > 0 && offsets === null) || at.length !== (known.pieces[0] ?? piece).sizes.length)
        throw badCheckpoint(part.path, `tensor stands in two files: ${name}`, { tensor: name });
      known.pieces.push(piece);
      this.#pieces.set(name, known);
    }
  }

  checkpoint(kind: string): Checkpoint {
    const tensors = [...this.#pieces].map(([name, { dtype, pieces }]): [string, CheckpointTensor] => {
      const [first] = pieces as [Piece, ...Piece[]];
      const shape = first.sizes.map((_, dim) =>
        Math.max(...pieces.map(({ offsets, sizes }) => (offsets[dim] as number) + (sizes[dim] as number))),
      );
      return [name, { name, dtype, shape, pieces: async () => pieces }];
    });
    return { path: this.path, kind, tensors: new Map(tensors), inModelOrder: false, skipped: this.#skipped, marks: new Map() };
  }
}

/** Where in its tensor each part of a distributed file is; null of a file that holds whole tensors. */
function savedOffsets({ path, metadata, tensors }: SafetensorsHeader): ReadonlyMap<string, readonly number[]> | null {
  const text = metadata[SHARDING_INFO];
  if (text === undefined) return null;
  const bad = (what: string): TerabagError => badCheckpoint(path, `${SHARDING_INFO} of the file ${what}`);
  let info: unknown;
  try {
    info = parseJson(text);
  } catch (error) {
    throw bad(`is not sound JSON: ${(error as SyntaxError).message}`);
  }
  const entries = new Map(Object.entries(typeof info === 'object' && info !== null ? info : {}));
  return new Map(
    [...tensors].map(([name, { shape }]) => {
      const entry: unknown = entries.get(name);
      const offsets = typeof entry === 'object' && entry !== null && 'saved_offsets' in entry ? entry.saved_offsets : null;
      if (!isCounts(offsets) || offsets.length !== shape.length) throw bad(`does not say where in its tensor a part is: ${name}`);
      return [name, offsets];
    }),
  );
}
