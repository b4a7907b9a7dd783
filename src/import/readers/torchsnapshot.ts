import { join } from 'node:path';
import { z } from 'zod';
import { readJsonFile } from '../../tables/json-file.js';
import { badCheckpoint, type Checkpoint, type CheckpointTensor, dtypeBytes, type Piece, rowMajor, valuesOf } from '../checkpoint.js';
import { insideCheckpoint } from '../inside.js';
import type { CheckpointFiles } from '../open-files.js';
import { TORCH_DTYPES } from '../torch-pickle.js';

export const SNAPSHOT_FILE = '.snapshot_metadata';

const counts = z.array(z.number().int().min(0).max(Number.MAX_SAFE_INTEGER));
const tensorSchema = z.object({
  location: z.string().min(1),
  serializer: z.string(),
  dtype: z.string(),
  shape: counts,
  byte_range: counts.length(2).nullish(),
});
const shardSchema = z.object({ offsets: counts, sizes: counts, tensor: tensorSchema });
/** Entries of other types, the containers and numbers of a state dict, are passed over. */
const entrySchema = z.union([
  tensorSchema.extend({ type: z.literal('Tensor') }),
  z.object({ type: z.literal('ShardedTensor'), shards: z.array(shardSchema) }),
  z.object({ type: z.literal('ChunkedTensor'), chunks: z.array(shardSchema) }),
  z.object({ type: z.string().refine((type) => !['Tensor', 'ShardedTensor', 'ChunkedTensor'].includes(type)) }),
]);
const snapshotSchema = z.object({ version: z.string(), world_size: z.number().int().min(1), manifest: z.record(z.string(), entrySchema) });

type TensorEntry = z.output<typeof tensorSchema>;
type Shard = z.output<typeof shardSchema>;

/** A directory that torchsnapshot wrote: a manifest, and values as they lie in memory, whole or in shards. */
export async function readTorchsnapshot(files: CheckpointFiles, directory: string): Promise<Checkpoint> {
  const path = join(directory, SNAPSHOT_FILE);
  const [first = 0] = await files.read(path, 0, Math.min(1, await files.size(path)));
  if (first !== 0x7b)
    throw badCheckpoint(
      path,
      'the manifest is not JSON, which torchsnapshot writes from version 0.1 on; load the snapshot there and take it again',
    );
  const { manifest, world_size: ranks } = await readJsonFile(
    path,
    { what: 'manifest of torchsnapshot', code: 'bad_checkpoint' },
    snapshotSchema,
  );
  const found = new Map<string, Shard[]>();
  const skipped = new Map<string, string>();
  for (const [key, entry] of Object.entries(manifest)) {
    const shards = shardsOf(entry);
    if (shards === null) continue;
    const name = nameOf(key);
    const other = shards.find(({ tensor }) => tensor.serializer !== 'buffer_protocol' || !TORCH_DTYPES.has(tensor.dtype));
    if (other !== undefined) skipped.set(name, `of dtype ${other.tensor.dtype}, stored by ${other.tensor.serializer}`);
    else addShards(found, name, shards);
  }
  const tensors = [...found].map(([name, shards]): [string, CheckpointTensor] => [name, tensorOf(files, directory, name, shards)]);
  return { path: directory, kind: 'torchsnapshot', tensors: new Map(tensors), inModelOrder: ranks === 1, skipped, marks: new Map() };
}

/** Null of what is no tensor. */
function shardsOf(entry: z.output<typeof entrySchema>): Shard[] | null {
  if ('shards' in entry) return entry.shards;
  if ('chunks' in entry) return entry.chunks;
  return 'location' in entry ? [{ offsets: entry.shape.map(() => 0), sizes: entry.shape, tensor: entry }] : null;
}

/** 0/model/emb.weight: the rank, then the keys that lead to the tensor, in which / and % are escaped. */
const nameOf = (key: string): string =>
  key
    .split('/')
    .slice(1)
    .map((part) => part.replaceAll('%2F', '/').replaceAll('%25', '%'))
    .join('.');

/** Each rank lists the shards that it saved; what all have alike, such as dense weights, counts once. */
function addShards(found: Map<string, Shard[]>, name: string, shards: readonly Shard[]): void {
  const known = found.get(name) ?? [];
  const places = new Set(known.map(({ offsets }) => offsets.join()));
  found.set(name, [...known, ...shards.filter(({ offsets }) => !places.has(offsets.join()))]);
}

function tensorOf(files: CheckpointFiles, directory: string, name: string, shards: readonly Shard[]): CheckpointTensor {
  const [first] = shards;
  if (first === undefined) throw badCheckpoint(directory, `tensor has no shards: ${name}`, { tensor: name });
  const dtype = TORCH_DTYPES.get(first.tensor.dtype);
  if (
    dtype === undefined ||
    shards.some(
      ({ tensor, offsets, sizes }) =>
        tensor.dtype !== first.tensor.dtype || offsets.length !== sizes.length || sizes.length !== first.sizes.length,
    )
  )
    throw badCheckpoint(directory, `shards of a tensor differ in dtype or dims: ${name}`, { tensor: name });
  const shape = first.sizes.map((_, dim) =>
    Math.max(...shards.map(({ offsets, sizes }) => (offsets[dim] as number) + (sizes[dim] as number))),
  );
  const pieceOf = async ({ offsets, sizes, tensor }: Shard): Promise<Piece> => {
    const path = insideCheckpoint(directory, tensor.location);
    await checkRange(files, path, name, tensor, valuesOf(sizes) * dtypeBytes(dtype));
    return { path, byteOffset: tensor.byte_range?.[0] ?? 0, offsets, sizes, strides: rowMajor(sizes), known: null, header: null };
  };
  const pieces = async (): Promise<Piece[]> => {
    const read: Piece[] = [];
    for (const shard of shards) read.push(await pieceOf(shard));
    return read;
  };
  return { name, dtype, shape, pieces };
}

async function checkRange(
  files: CheckpointFiles,
  path: string,
  name: string,
  { byte_range: range }: TensorEntry,
  bytes: number,
): Promise<void> {
  const size = await files.size(path);
  const [from = 0, to = size] = range ?? [];
  if (to - from !== bytes || to > size)
    throw badCheckpoint(
      path,
      `values do not lie where the manifest says: ${name}, bytes ${from} to ${to}, expected ${bytes}, file bytes ${size} (truncated?)`,
      { tensor: name },
    );
}
