import { KeysByRow } from '../../engine/key-index.js';
import { TerabagError } from '../../errors.js';
import type { Bundle, OpenTable } from '../../model/bundle.js';
import type { ResolvedBag, ResolvedModel } from '../../model/graph.js';
import { plainId } from '../../model/id-rules.js';
import { endKept, firstKept } from '../../model/truncate.js';
import { MOST_READS } from '../../pack/kept-rows.js';
import { firstBadId, idAt } from '../../predictor/ids.js';
import { type CheckedBags, type CheckedRequest, checkRequest } from '../../predictor/request.js';
import { Scratch } from '../../predictor/scratch.js';
import { locatedError, readRequests } from '../requests/request-file.js';

export interface CountOptions {
  readonly signal?: AbortSignal | undefined;
  /** Bytes of a file of lines, or requests. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/** How often the rows of a table are read: by row, or by key until all requests were counted. */
type TableReads = { readonly byRow: Uint8Array } | { readonly byKey: Map<number | bigint, number> };

/** Counts how often requests read each row of some tables: a byte a row, and up to MOST_READS; of keyed tables also an entry for each key that is read. */
export class RowReads {
  readonly #model: ResolvedModel;
  /** By table; null where it is not counted. */
  readonly #reads: readonly (TableReads | null)[];
  requests = 0;

  constructor(
    private readonly bundle: Bundle,
    counted: ReadonlySet<number>,
  ) {
    this.#model = bundle.model as ResolvedModel;
    this.#reads = bundle.spec.tables.map(({ rows, keys }, table): TableReads | null => {
      if (!counted.has(table)) return null;
      return keys === undefined ? { byRow: new Uint8Array(rows) } : { byKey: new Map() };
    });
  }

  /** Of a file of requests; the first that the model does not answer ends it, as it would evaluation. */
  async addFile(path: string, { signal, onProgress }: CountOptions = {}): Promise<void> {
    const scratch = new Scratch();
    for await (const read of readRequests(path, onProgress)) {
      if (signal?.aborted) throw new TerabagError('aborted', 'counting reads was interrupted');
      if ('error' in read) throw read.error;
      try {
        const request = checkRequest(this.#model, read.request, scratch);
        const bad = firstBadId(this.#model, request);
        if (bad !== null) throw bad;
        this.add(request);
      } catch (thrown) {
        throw locatedError(path, read.line, thrown);
      }
    }
    if (this.requests === 0) throw new TerabagError('invalid_argument', `no requests to count reads of: ${path}`, { path });
  }

  add(request: CheckedRequest): void {
    this.requests++;
    for (const [b, bag] of this.#model.bags.entries()) {
      const reads = this.#reads[bag.table];
      if (reads) addBags(reads, bag, request.bags[b] as CheckedBags);
    }
  }

  /** Of each row. */
  async ofTable(table: number, directory: string): Promise<Uint8Array> {
    const reads = this.#reads[table] as TableReads;
    if ('byRow' in reads) return reads.byRow;
    const { rows, index } = this.bundle.tables[table] as OpenTable;
    const byRow = new Uint8Array(rows);
    const sorted = await KeysByRow.read(index as NonNullable<OpenTable['index']>, directory);
    try {
      for (let row = 0; row < rows; row += KEYS_AT_ONCE) {
        const keys = new BigInt64Array(Math.min(KEYS_AT_ONCE, rows - row));
        await sorted.next(keys);
        for (const [at, key] of keys.entries()) byRow[row + at] = reads.byKey.get(plainId(key)) ?? 0;
      }
      return byRow;
    } finally {
      sorted.close();
    }
  }
}

const KEYS_AT_ONCE = 2 ** 18;

/** Ids that are cut off, are padding, or are not the table's, read no row. */
function addBags(reads: TableReads, bag: ResolvedBag, checked: CheckedBags): void {
  const { offsets } = checked.input;
  for (let b = 0; b < checked.numBags; b++) {
    const [from, to] = [offsets[b] as number, offsets[b + 1] as number];
    for (let position = firstKept(bag, from, to); position < endKept(bag, from, to); position++) {
      const id = idAt(bag, checked, position);
      if (id === bag.rule.padding) continue;
      if ('byKey' in reads) reads.byKey.set(id, Math.min(MOST_READS, (reads.byKey.get(id) ?? 0) + 1));
      else if (typeof id === 'number' && id >= 0 && id < bag.rows) reads.byRow[id] = Math.min(MOST_READS, (reads.byRow[id] as number) + 1);
    }
  }
}
