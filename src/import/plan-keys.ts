import type { TerabagError } from '../errors.js';
import { MAX_KEYS } from '../tables/key-index.js';
import { badCheckpoint, type Checkpoint, type CheckpointTensor, checkCover, type Piece, refuser } from './checkpoint.js';
import type { TensorNames } from './tensor-names.js';

/** The keys of a table's rows, in their order. */
export interface PlannedKeys {
  readonly tensor: CheckpointTensor;
  /** As of a tensor of two dims, [rows, 1]. */
  readonly pieces: readonly Piece[];
}

interface KeysOfTable {
  readonly table: string;
  readonly rows: number;
  readonly tensor: string;
  /** The table in the spec. */
  readonly field: string;
}

/** Finds the keys of a table, and refuses what cannot be one for each row, before anything is written. */
export async function planKeys(
  { path }: Checkpoint,
  names: TensorNames,
  { table, rows, tensor: wanted, field }: KeysOfTable,
): Promise<PlannedKeys> {
  const tensor = names.get(wanted, `${field}.keys.tensor`);
  const { name, dtype, shape } = tensor;
  const wrong = (what: string): TerabagError => badCheckpoint(path, `${field}.keys.tensor: ${what}`, { table, tensor: name });
  if (dtype !== 'I64' && dtype !== 'U64') throw wrong(`keys are I64 or U64: ${name} is ${dtype}`);
  if (shape.length !== 1 || shape[0] !== rows)
    throw wrong(`a keyed table has one key for each row: table ${table} has ${rows} rows, ${name} is ${shape.join('x') || 'a scalar'}`);
  if (rows > MAX_KEYS) throw wrong(`a keyed table has at most ${MAX_KEYS} rows: table ${table} has ${rows}`);
  const pieces = await tensor.pieces();
  checkCover(name, shape, pieces, refuser(path));
  if (pieces.some(({ sizes: [size = 0], strides: [stride] }) => size > 1 && stride === 0))
    throw wrong(`two rows of a keyed table have one key: table ${table}, ${name} is one value repeated`);
  return { tensor, pieces: pieces.map(asColumn) };
}

const asColumn = (piece: Piece): Piece => ({
  ...piece,
  offsets: [...piece.offsets, 0],
  sizes: [...piece.sizes, 1],
  strides: [...piece.strides, 1],
});
