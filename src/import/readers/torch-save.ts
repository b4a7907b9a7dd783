import { dirname } from 'node:path';
import type { Extent } from '../../tables/blocks.js';
import { badCheckpoint, type Checkpoint, type CheckpointTensor, dtypeBytes, type Piece, refuser } from '../checkpoint.js';
import type { CheckpointFiles } from '../open-files.js';
import { readPickle } from '../pickle.js';
import { findTensors, TORCH_GLOBALS, type TorchTensor } from '../torch-pickle.js';
import { entryExtent, readEntry, readZip, type Zip, type ZipEntry } from '../zip.js';

/** Names, sizes and strides of all tensors: some 200 bytes each. */
const MOST_PICKLE_BYTES = 256 * 2 ** 20;

export const looksLikeZip = (start: Uint8Array): boolean => start[0] === 0x50 && start[1] === 0x4b;

/** A .pt or .pth file that torch.save wrote. */
export async function readTorchSave(files: CheckpointFiles, path: string): Promise<Checkpoint> {
  const extent = { from: 0, bytes: await files.size(path) };
  const { tensors, skipped, directory } = await readTorchZip(files, path, extent);
  return { path, kind: 'torch.save', tensors, inModelOrder: true, skipped, marks: new Map([[path, [directory]]]) };
}

export interface TorchZip {
  readonly tensors: ReadonlyMap<string, CheckpointTensor>;
  readonly skipped: ReadonlyMap<string, string>;
  readonly directory: Extent;
}

/** The zip that torch.save writes, in an extent of a file: a pickle that describes tensors, and an entry for each storage. */
export async function readTorchZip(files: CheckpointFiles, path: string, extent: Extent): Promise<TorchZip> {
  const refuse = refuser(path);
  const zip = await readZip(files, path, extent);
  const pickles = [...zip.entries.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name));
  const [pickle] = pickles;
  if (pickle === undefined || pickles.length > 1)
    throw refuse('a zip that torch.save did not write: it has no data.pkl in its one directory');
  const root = dirname(pickle);
  await refuseOtherOrder(files, zip, root);
  const { data, known } = await readEntry(files, zip, zip.entries.get(pickle) as ZipEntry, MOST_PICKLE_BYTES);
  const { tensors: found, skipped } = findTensors(readPickle(data, { globals: TORCH_GLOBALS, refuse }), refuse);
  const storages = new Storages(files, zip, root, known);
  const tensors = [...found].map(([name, tensor]): [string, CheckpointTensor] => {
    storages.check(name, tensor);
    const { dtype, shape } = tensor;
    return [name, { name, dtype, shape, pieces: async () => [await storages.piece(tensor)] }];
  });
  return { tensors: new Map(tensors), skipped, directory: zip.directory };
}

/** Values are read as they lie, in this machine's order of bytes. */
async function refuseOtherOrder(files: CheckpointFiles, zip: Zip, root: string): Promise<void> {
  const entry = zip.entries.get(`${root}/byteorder`);
  if (entry === undefined) return;
  const order = (await readEntry(files, zip, entry, 16)).data.toString('latin1');
  if (order !== 'little') throw badCheckpoint(zip.path, `values are stored in another order of bytes: ${order}, expected little`);
}

class Storages {
  constructor(
    private readonly files: CheckpointFiles,
    private readonly zip: Zip,
    private readonly root: string,
    /** Whether the zip has checksums: torch.serialization.set_crc32_options(False) leaves them out. */
    private readonly known: boolean,
  ) {}

  /** Refuses a tensor whose storage is missing, or of another length than the pickle says. */
  check(name: string, { storage, dtype, storageValues }: TorchTensor): void {
    const { bytes } = this.#entry(storage);
    if (Math.floor(bytes / dtypeBytes(dtype)) !== storageValues)
      throw badCheckpoint(
        this.zip.path,
        `storage has another length than its tensor says: ${name}, storage ${storage}, ${bytes} bytes, expected ${storageValues * dtypeBytes(dtype)}`,
        {
          tensor: name,
        },
      );
  }

  async piece({ storage, dtype, first, shape, strides }: TorchTensor): Promise<Piece> {
    const known = await entryExtent(this.files, this.zip, this.#entry(storage));
    const byteOffset = known.from + first * dtypeBytes(dtype);
    return {
      path: this.zip.path,
      byteOffset,
      offsets: shape.map(() => 0),
      sizes: shape,
      strides,
      known: this.known ? known : null,
      header: null,
    };
  }

  #entry(storage: string): ZipEntry {
    const entry = this.zip.entries.get(`${this.root}/data/${storage}`);
    if (entry === undefined) throw badCheckpoint(this.zip.path, `storage is missing: ${storage.slice(0, 100)} (truncated?)`);
    return entry;
  }
}
