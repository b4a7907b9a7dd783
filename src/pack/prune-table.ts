import { dirname } from 'node:path';
import { KeysByRow, type WrittenKeyIndex, writeKeyIndex } from '../engine/key-index.js';
import { TerabagError } from '../errors.js';
import type { OpenKeyIndex } from '../model/bundle.js';
import { type NamedRows, namedRows } from '../model/id-rules.js';
import type { ModelSpec, TableSpec } from '../model/spec.js';
import type { UnseenSpec } from '../model/unseen.js';
import type { KeptRows } from './kept-rows.js';

/** What is kept of a table, and what becomes of ids whose rows are not. */
export interface Pruning {
  readonly kept: KeptRows;
  /** Null: as the table, and the layers that read it, say already. */
  readonly unseen: UnseenSpec | null;
}

/** Keys that are indexed at a time: 2 MiB. */
const KEYS_AT_ONCE = 2 ** 18;

export interface KeptKeysOptions {
  readonly kept: KeptRows;
  /** Of a table that is keyed already; null: its ids are its rows. */
  readonly index: OpenKeyIndex | null;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: (done: number, total: number) => void;
}

/** Writes the index of the rows that are kept: their keys, or the ids that they had as rows. */
export async function writeKeptKeys(path: string, { kept, index, signal, onProgress }: KeptKeysOptions): Promise<WrittenKeyIndex> {
  const stop = (): void => {
    if (signal?.aborted) throw new TerabagError('aborted', 'packing was interrupted');
  };
  const byRow = index === null ? null : await KeysByRow.read(index, dirname(path), stop);
  try {
    return await writeKeyIndex(path, { rows: kept.count, keys: keptKeys(kept, byRow), signal, ...(onProgress && { onProgress }) });
  } finally {
    byRow?.close();
  }
}

async function* keptKeys(kept: KeptRows, byRow: KeysByRow | null): AsyncGenerator<BigInt64Array> {
  for (let row = 0; row < kept.rows; row += KEYS_AT_ONCE) {
    const keys = new BigInt64Array(Math.min(KEYS_AT_ONCE, kept.rows - row));
    if (byRow === null) for (let at = 0; at < keys.length; at++) keys[at] = BigInt(row + at);
    else await byRow.next(keys);
    yield kept.gatherKeys(keys, row);
  }
}

type Nets = ModelSpec['nets'];
type Layer = Nets[number]['layers'][number];
type ReadingLayer = Extract<Layer, { readonly table: string }>;

/** The layers that read a table. */
export const readersOf = ({ nets }: Pick<ModelSpec, 'nets'>, table: string): ReadingLayer[] =>
  nets.flatMap(({ layers }) => layers).filter((layer): layer is ReadingLayer => 'table' in layer && layer.table === table);

/** Rows that policies name, which have to be kept: also those of the table's own, when every layer that reads it has another. */
export function rowsOfPolicies(spec: Pick<ModelSpec, 'nets'>, table: TableSpec): NamedRows {
  const policies = [table.unseen, ...readersOf(spec, table.name).map(({ unseen }) => unseen)].filter((each) => each !== undefined);
  return namedRows(policies.map(({ policy, row = null, rows = table.rows }) => ({ row, buckets: policy === 'hash' ? rows : 0 })));
}

/** Tables and nets of a spec of which tables were pruned, as checkPrunings wants it; keys: of each of these its index. */
export function prunedSpec(
  spec: ModelSpec,
  prunings: ReadonlyMap<string, Pruning>,
  keys: ReadonlyMap<string, NonNullable<TableSpec['keys']>>,
): Pick<ModelSpec, 'tables' | 'nets'> {
  const tables = spec.tables.map((table): TableSpec => {
    const pruning = prunings.get(table.name);
    if (pruning === undefined) return table;
    const unseen = pruning.unseen ?? renumbered(table.unseen, pruning.kept);
    return { ...table, rows: pruning.kept.count, ...(unseen && { unseen }), keys: keys.get(table.name) as NonNullable<TableSpec['keys']> };
  });
  const nets = spec.nets.map((net) => ({
    ...net,
    layers: net.layers.map((layer): Layer => {
      const pruning = 'table' in layer ? prunings.get(layer.table) : undefined;
      if (pruning === undefined || !('table' in layer) || layer.unseen?.row === undefined) return layer;
      return { ...layer, unseen: renumbered(layer.unseen, pruning.kept) };
    }),
  }));
  return { tables, nets };
}

/** A policy that names a row of the table names it by its new place. */
const renumbered = (unseen: UnseenSpec | undefined, kept: KeptRows): UnseenSpec | undefined =>
  unseen?.row === undefined ? unseen : { ...unseen, row: kept.placeOf(unseen.row) };

/** Refuses what does not fit its table (invalid_argument). */
export function checkPrunings(spec: ModelSpec, prunings: ReadonlyMap<string, Pruning>): void {
  for (const table of spec.tables) {
    const pruning = prunings.get(table.name);
    if (pruning !== undefined) checkPruning(spec, table, pruning.kept);
  }
}

function checkPruning(spec: ModelSpec, table: TableSpec, kept: KeptRows): void {
  const refuse = (what: string): TerabagError => new TerabagError('invalid_argument', what, { table: table.name });
  if (kept.rows !== table.rows)
    throw refuse(`reads have to be counted for each row of a table: ${table.name}, rows ${table.rows}, reads ${kept.rows}`);
  if (kept.count === 0) throw refuse(`a table needs at least one row that is kept: ${table.name}, rows ${table.rows}`);
  const { buckets, others } = rowsOfPolicies(spec, table);
  let missing = others.find((row) => !kept.has(row));
  for (let row = 0; row < buckets && missing === undefined; row++) if (!kept.has(row)) missing = row;
  if (missing !== undefined) throw refuse(`a row that a policy of unseen ids names has to be kept: ${table.name}, row ${missing}`);
}
