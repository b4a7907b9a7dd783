import { oneOf, TerabagError } from '../errors.js';
import { rowBytes } from '../model/formats.js';
import type { JobTimes } from './job-times.js';
import { readMemoryLimits, refusal } from './memory-limits.js';
import { type NativeSocket, type NativeSparseEngine, type NativeStatusError, type NativeTable, native } from './native.js';
import { tableError } from './native-errors.js';
import { type Prefetch, prefetchSetting, type TunedPrefetch } from './prefetch.js';
import { RESIDENCIES, type Residency, type ResidencyReport, reportResidency } from './residency.js';
import { floatsPerBag, SEGMENT_FIELDS, type SparseBatch } from './sparse-batch.js';
import { RECEIVER_BUDGET_NS, SYNC_BUDGET_NS } from './sync-budget.js';

/** A mapped table with the name that errors use. */
export interface EngineTable extends NativeTable {
  readonly name: string;
}

export interface SparseEngineOptions {
  /** Default populate. */
  readonly residency?: Residency;
  /** Bytes of the rows that are in memory; called a few times a second. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

const PROGRESS_MS = 100;
/** Plans of one model are not told apart before the first request. */
const OTHER_PLAN = 'was main started with another plan than the shard?';

/** One random row costs a memory access plus its bytes at about 16 bytes a nanosecond. */
const lookupNs = (rowBytes: number): number => 15 + rowBytes / 16;

/** A set of tables, or parts of tables, that pools whole requests. */
export class SparseEngine {
  readonly #engine: NativeSparseEngine;
  readonly #tables = new Map<number, EngineTable>();
  readonly #nsPerLookup: number;
  readonly #prefetch: 'auto' | 'default' | Prefetch;
  #tuned: readonly TunedPrefetch[] = [];
  /** Of a closed one. */
  #unseen: readonly (readonly [table: string, count: number])[] | null = null;

  /** Maps the tables; their rows come into memory with fill(). A file shorter than its table is refused (bad_table). */
  constructor(
    tables: readonly EngineTable[],
    readonly residency: Residency = 'populate',
  ) {
    oneOf('residency', residency, RESIDENCIES);
    for (const table of tables) this.#tables.set(table.table, table);
    const lengths = tables.map((table) => rowBytes(table.format, table.dim));
    this.#nsPerLookup = lookupNs(Math.max(0, ...lengths));
    this.#prefetch = prefetchSetting(process.env['TERABAG_PREFETCH']);
    try {
      this.#engine = new native.SparseEngine(tables, residency, typeof this.#prefetch === 'object' ? this.#prefetch : undefined);
    } catch (error) {
      throw tableError(error);
    }
  }

  /** Maps the tables and brings their rows into memory as the residency says; see fill. */
  static async open(tables: readonly EngineTable[], options: SparseEngineOptions = {}): Promise<SparseEngine> {
    const engine = new SparseEngine(tables, options.residency);
    try {
      await engine.fill(options.onProgress);
    } catch (error) {
      engine.close();
      throw error;
    }
    return engine;
  }

  /** The prefetch distances that were measured when the tables came into memory; of tables of 64 MiB or more, unless TERABAG_PREFETCH says otherwise. */
  get tunedPrefetch(): readonly TunedPrefetch[] {
    return this.#tuned;
  }

  /** How often its tables did not have an id, and their rule let it pass; parts of one table each for itself. When it is closed, until then. */
  unseen(): readonly (readonly [table: string, count: number])[] {
    return this.#unseen ?? this.#engine.unseen().map(({ table, count }) => [this.#tables.get(table)?.name ?? '', count]);
  }

  /** Bytes of all rows. */
  get tableBytes(): number {
    return this.#engine.tableBytes();
  }

  /**
   * Brings the rows into memory, on a thread of the addon; once, before the first pooling. What cannot be locked or copied is refused before
   * memory is taken (does_not_fit); a file that was shortened or replaced meanwhile, or a disk that fails, is a bad_table. A file that is
   * shortened later, while requests read it, ends the process (SIGBUS), other than with residency hugepages.
   */
  async fill(onProgress: SparseEngineOptions['onProgress'] = () => undefined): Promise<void> {
    const { residency } = this;
    const keptBytes = this.#engine.keptBytes();
    const limits = keptBytes > 0 ? await readMemoryLimits() : null;
    if (limits !== null) {
      const need = { residency, keptBytes, missingBytes: keptBytes };
      // Counting pages takes seconds for a terabyte, which cannot be in memory.
      if (residency === 'lock' && keptBytes <= limits.totalBytes && refusal(need, limits) !== null)
        need.missingBytes = await this.#missingBytes();
      const refused = refusal(need, limits);
      if (refused !== null) throw refused;
    }
    const total = this.tableBytes;
    const timer = setInterval(() => onProgress(this.#engine.filledBytes(), total), PROGRESS_MS);
    try {
      await this.#engine.fill();
      // Rows that are not in memory would be read from the disk, and measured.
      if (this.#prefetch === 'auto' && residency !== 'map') this.#tuned = await this.#engine.tunePrefetch();
      onProgress(total, total);
    } catch (error) {
      throw tableError(error);
    } finally {
      clearInterval(timer);
    }
  }

  /**
   * How much of the tables is in memory, on huge pages and locked, worked out on a thread of the addon; null where the system does not tell.
   * mapCached maps what the page cache holds first, so that hugePageBytes covers it; nothing is read from the disk.
   */
  async measureResidency({ mapCached = false } = {}): Promise<ResidencyReport | null> {
    return reportResidency(await this.#engine.residency(mapCached));
  }

  /** Drops files of these tables from the page cache, as far as no other process maps them: the next read finds them a place anew. */
  async dropCached(paths: readonly string[]): Promise<void> {
    await this.#engine.dropCached(paths).catch((error: unknown) => {
      throw tableError(error);
    });
  }

  async #missingBytes(): Promise<number> {
    const files = await this.#engine.residency(false);
    // Unknown counts as missing.
    return files.reduce((sum, { bytes, residentBytes }) => sum + bytes - (residentBytes ?? 0), 0);
  }

  /**
   * Floats that pooling the batch gives: the sum of bags x floatsPerBag over segments. A segment of a table, or part, that is not here is refused, and so are
   * more bags than offsets: what is reserved for the output never exceeds what the batch can fill.
   */
  outputLength(segments: Uint8Array, offsets: Uint8Array): number {
    const view = new DataView(segments.buffer, segments.byteOffset, segments.byteLength);
    const stride = SEGMENT_FIELDS * 4;
    if (segments.byteLength % stride !== 0) {
      throw new TerabagError('bad_message', `segments have a partial entry: ${segments.byteLength} bytes`, { bytes: segments.byteLength });
    }
    let length = 0;
    let bags = 0;
    for (let at = 0; at < segments.byteLength; at += stride) {
      const id = view.getUint32(at, true);
      const part = view.getUint32(at + 4, true);
      const parts = view.getUint32(at + 8, true);
      const table = this.#tables.get(id);
      if (table === undefined)
        throw new TerabagError('bad_message', `table is not on this shard: ${id}: ${OTHER_PLAN}`, { table: id, part, parts });
      if (table.part !== part || table.parts !== parts)
        throw new TerabagError(
          'bad_message',
          `shard holds part ${table.part} of ${table.parts} of table ${table.name}, asked for part ${part} of ${parts}: ${OTHER_PLAN}`,
          { table: table.name, part, parts },
        );
      const numBags = view.getUint32(at + 12, true);
      bags += numBags;
      length += numBags * floatsPerBag(table.dim, view.getUint32(at + 16, true));
    }
    const expected = (bags + 1) * 4;
    if (offsets.byteLength !== expected) {
      throw new TerabagError(
        'bad_message',
        `segments and offsets differ: ${bags} bags, ${offsets.byteLength} bytes, expected ${expected}`,
        {
          bags,
          bytes: offsets.byteLength,
        },
      );
    }
    return length;
  }

  /**
   * Pools the batch into out (outputLength floats): [bags, floatsPerBag] per segment, one after another. Small batches are done on return (undefined);
   * large ones run on the addon's threads, and the caller leaves all buffers alone until the promise settles. On a thread, it measures
   * itself when there is a job.
   */
  pool(batch: SparseBatch, out: Float32Array, job: JobTimes | null = null): Promise<void> | undefined {
    const { segments, indexBytes, indices, offsets, weights } = batch;
    const numIndices = indices.byteLength / indexBytes;
    const estimate = numIndices * this.#nsPerLookup + out.length / 8;
    const hops = estimate > SYNC_BUDGET_NS;
    if (job !== null) job.onThread = hops;
    try {
      if (hops)
        return this.#engine.pool(segments, indexBytes, indices, offsets, weights, out, job?.times, job?.timesAt).catch((error: unknown) => {
          throw this.#named(error, segments);
        });
      this.#engine.poolSync(segments, indexBytes, indices, offsets, weights, out);
    } catch (error) {
      throw this.#named(error, segments);
    }
    return undefined;
  }

  /** Lets a socket answer small requests of this version by itself; see NativeSocket.serve. */
  serveOn(socket: NativeSocket, stamp: Uint8Array): void {
    socket.serve(this.#engine, stamp, this.#nsPerLookup, RECEIVER_BUDGET_NS, SYNC_BUDGET_NS);
  }

  close(): void {
    this.#unseen = this.unseen();
    this.#engine.close();
  }

  #named(error: unknown, segments: Uint8Array): TerabagError {
    const native = error as Partial<NativeStatusError>;
    if (native.status === undefined) return TerabagError.from(error);
    const { status, segment = 0, bag = 0, position = 0, value = '', limit = '' } = native;
    if (status !== 'index_out_of_range' && status !== 'bad_offsets') {
      const code = status === 'closed' ? 'closed' : status === 'out_of_memory' ? 'overloaded' : 'bad_message';
      return new TerabagError(code, native.message ?? status, {
        status,
        segment,
        bag,
        position,
        value,
        limit,
      });
    }
    const at = segment * SEGMENT_FIELDS * 4;
    const view = new DataView(segments.buffer, segments.byteOffset, segments.byteLength);
    const table = at + 4 <= segments.byteLength ? this.#tables.get(view.getUint32(at, true)) : undefined;
    const name = table?.name ?? `segment ${segment}`;
    if (status === 'bad_offsets') {
      return new TerabagError(
        'bad_offsets',
        `offsets do not fit the indices for table: ${name}, bag ${bag}, offset ${value}, limit ${limit}`,
        { table: name, bag, value, limit },
      );
    }
    return table?.keys ? keyNotFound(name, bag, position, value) : indexOutOfRange(name, bag, position, value, limit);
  }
}

/** The error of every id that a table does not have, wherever it is found. */
export function indexOutOfRange(table: string, bag: number, position: number, index: string, rows: string): TerabagError {
  return new TerabagError(
    'index_out_of_range',
    `index out of range for table: ${table}, bag ${bag}, position ${position}, index ${index}, rows ${rows}`,
    {
      table,
      bag,
      position,
      index,
      rows,
    },
  );
}

/** The error of every key that a keyed table does not have; the key as an integer with a sign. */
export function keyNotFound(table: string, bag: number, position: number, key: string): TerabagError {
  return new TerabagError('index_out_of_range', `no such key in table: ${table}, bag ${bag}, position ${position}, key ${key}`, {
    ...{ table, bag, position, key },
  });
}
