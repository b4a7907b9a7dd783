import { mkdtemp, rm } from 'node:fs/promises';
import { dirname, join, normalize, resolve } from 'node:path';
import { TerabagError } from '../../errors.js';
import { type Bundle, checkOpened, DENSE_FILE, type OpenKeyIndex, type OpenTable, openBundle } from '../../model/bundle.js';
import type { Verify } from '../../model/bundle-files.js';
import { isPacked, type RowFormat, rowBytes } from '../../model/formats.js';
import type { TableSpec } from '../../model/spec.js';
import { readTableFile } from '../../model/table-file.js';
import type { UnseenPolicy } from '../../model/unseen.js';
import { type KeptRows, MOST_READS } from '../../pack/kept-rows.js';
import { packFile } from '../../pack/pack-file.js';
import { type Pruning, writeKeptKeys } from '../../pack/prune-table.js';
import { BUCKET_BYTES } from '../../tables/key-index.js';
import { checkRoom } from '../../tables/output-directory.js';
import { readSafetensorsHeader } from '../../tables/safetensors.js';
import { AccuracyMeter, entropy, lossesByRequest } from '../evaluate/accuracy.js';
import { type ConfidenceInterval, relativeRise } from '../evaluate/bootstrap.js';
import type { EvaluateOptions } from '../evaluate/evaluate-requests.js';
import type { ScoredItems } from '../evaluate/scored-items.js';
import { FormatMeter, type StoredRows } from './format-meter.js';
import { keepNamed, keyBytes, prunable, pruningOf, prunings, TRIED_READS } from './prunings.js';
import { RowReads } from './row-reads.js';
import { choicesOf, fitSelection, orderedSteps } from './steps.js';

/** Formats that are tried where nothing else is said; bf16 is as large as fp16, and less precise in the range of both. */
export const TRIED_FORMATS: readonly RowFormat[] = ['fp16', 'int8', 'int8_fp16', 'int4'];

/**
 * What is bounded, relative to what it is of the bundle as it is. ne: normalized entropy on labels. kl: the Kullback-Leibler divergence of the scores
 * from those of the bundle as it is, over the entropy of these; what normalized entropy is expected to rise by when they are calibrated. It needs no labels.
 */
export const BOUNDED = ['ne', 'kl'] as const;
export type Bounded = (typeof BOUNDED)[number];

export interface PruneByReads {
  /** A file of requests that count how often rows are read: others than those that are scored. */
  readonly requests: string;
  /** Rows with fewer reads are left out; ascending, up to MOST_READS. Default TRIED_READS. */
  readonly thresholds?: readonly number[] | undefined;
}

export interface ChooseOptions
  extends Pick<EvaluateOptions, 'requests' | 'labels' | 'concurrency' | 'output' | 'score' | 'kind' | 'signal'> {
  /** Default ne. */
  readonly bounded?: Bounded | undefined;
  /** The most that it may rise: 0.0002 is 0.02 %. */
  readonly bound: number;
  /** Default TRIED_FORMATS. */
  readonly formats?: readonly RowFormat[] | undefined;
  /** Names of the tables that may change; default all plain ones. */
  readonly tables?: readonly string[] | undefined;
  /** Default: all rows are kept. */
  readonly prune?: PruneByReads | undefined;
  /** How the bundle is checked first; default full. */
  readonly verify?: Verify | undefined;
  /** What is written meanwhile lies beside it. */
  readonly destination: string;
  /** Evaluations; their number changes when reads have been counted, and when the whole is measured. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/** A format, or a pruning, of tables that share a tensor, mostly one table. */
export interface MeasuredChoice {
  readonly tables: readonly string[];
  /** Of a pruning the one that the table has. */
  readonly format: RowFormat;
  readonly rows: number;
  /** Of a pruning: rows that are read less often are left out, and what becomes of their ids; else null. */
  readonly atLeast: number | null;
  readonly unseen: UnseenPolicy | null;
  /** With the key index. */
  readonly bytes: number;
  /** How much what is bounded rises, relative, with this change alone; null where the format cannot hold the rows. */
  readonly loss: number | null;
  readonly chosen: boolean;
}

export interface ChosenFormats {
  /** By table; those that stay as they are are not in it. */
  readonly formats: ReadonlyMap<string, RowFormat>;
  /** By table that is pruned. */
  readonly prunings: ReadonlyMap<string, Pruning>;
  readonly choices: readonly MeasuredChoice[];
  readonly bounded: Bounded;
  readonly bytesBefore: number;
  readonly bytesAfter: number;
  /** Normalized entropy; of kl that of the scores of the bundle as it is, as if each were its label's probability. */
  readonly neBefore: number;
  readonly neAfter: number;
  /** Relative rise of normalized entropy with all changes at once, as it was measured, and its interval. */
  readonly loss: number;
  readonly lossInterval: ConfidenceInterval;
}

/** Tables that share a tensor: they are packed together. */
interface Unit {
  readonly tables: readonly { readonly name: string; readonly index: number }[];
  readonly stored: OpenTable;
  readonly file: string;
  readonly tensor: string;
  /** The first is as it is. */
  readonly formats: readonly RowFormat[];
  /** Beside keeping all rows. */
  readonly prunings: readonly Pruning[];
}

/** A way to store a unit: positions in its formats and prunings, ALL_ROWS when it is not pruned. */
interface Variant {
  readonly format: number;
  readonly pruning: number;
}
const ALL_ROWS = -1;
const AS_IT_IS: Variant = { format: 0, pruning: ALL_ROWS };

const DEADLINE_MS = 60_000;

/**
 * Chooses for each table the row format, and which rows it keeps, for the least bytes within a bound, by measuring on requests: every format and every
 * pruning of every table alone, then all that are chosen together. A format and a pruning of one table are taken to lose what both do alone, until then.
 * Nothing but temporary files is written, one table at a time until all are measured together.
 */
export async function chooseFormats(bundleDir: string, options: ChooseOptions): Promise<ChosenFormats> {
  const bundle = await openBundle(bundleDir, { verify: 'later' });
  if (bundle.spec.published !== undefined)
    throw new TerabagError('invalid_argument', `what was published cannot be packed; pack the source, plan and publish it: ${bundleDir}`, {
      path: bundleDir,
    });
  await checkOpened(bundle, options.verify ?? 'full');
  const units = unitsOf(bundle, options);
  await checkRoom(dirname(resolve(options.destination)), Math.max(...units.map(({ stored }) => stored.bytes)));
  const directory = await mkdtemp(join(dirname(resolve(options.destination)), '.terabag-formats-'));
  const labels = options.bounded === 'kl' ? null : options.labels;
  const meter = await FormatMeter.open(bundle, { ...options, labels, deadlineMs: DEADLINE_MS });
  try {
    const pruned = options.prune === undefined ? units : await withPrunings(bundle, units, { ...options, prune: options.prune, directory });
    if (pruned.every((unit) => variantsOf(unit).length === 1)) throw nothingToTry();
    return await new Search(bundle, pruned, meter, directory, options).run();
  } finally {
    await meter.close();
    await rm(directory, { recursive: true, force: true });
  }
}

const nothingToTry = (): TerabagError =>
  new TerabagError('invalid_argument', 'no table can be made smaller: all are packed, or as small in the formats that are tried');

function unitsOf({ spec, dense, tables: opened }: Bundle, { formats = TRIED_FORMATS, tables, prune }: ChooseOptions): Unit[] {
  const unknown = tables?.find((name) => !spec.tables.some((table) => table.name === name));
  if (unknown !== undefined)
    throw new TerabagError(
      'invalid_argument',
      `no such table: ${unknown}; the model has ${spec.tables.map(({ name }) => name).join(', ')}`,
      {
        table: unknown,
      },
    );
  const groups = new Map<string, { readonly name: string; readonly index: number }[]>();
  for (const [index, { name, file, tensor }] of spec.tables.entries()) {
    const key = `${normalize(file)}\0${tensor}`;
    groups.set(key, [...(groups.get(key) ?? []), { name, index }]);
  }
  const units = [...groups.values()].flatMap((group): Unit[] => {
    const first = group[0]?.index ?? 0;
    const { file, tensor, dim, format } = spec.tables[first] as TableSpec;
    const readByLayers = normalize(file) === DENSE_FILE && dense.has(tensor);
    const wanted = group.every(({ name }) => tables?.includes(name) ?? true);
    const smaller = formats.filter((each) => rowBytes(each, dim) < rowBytes(format, dim));
    if (!wanted || readByLayers || isPacked(format) || (smaller.length === 0 && prune === undefined)) return [];
    return [{ tables: group, stored: opened[first] as OpenTable, file, tensor, formats: [format, ...smaller], prunings: [] }];
  });
  if (units.length > 0) return units;
  throw nothingToTry();
}

interface PruningOptions extends Pick<ChooseOptions, 'onProgress' | 'signal'> {
  readonly prune: PruneByReads;
  /** Where keys are sorted. */
  readonly directory: string;
}

async function withPrunings(bundle: Bundle, units: readonly Unit[], options: PruningOptions): Promise<Unit[]> {
  const { prune, signal, onProgress } = options;
  const thresholds = prune.thresholds ?? TRIED_READS;
  const wrong = thresholds.find((each, at) => !Number.isInteger(each) || each <= (thresholds[at - 1] ?? 0) || each > MOST_READS);
  if (wrong !== undefined || thresholds.length === 0)
    throw new TerabagError('invalid_argument', `numbers of reads have to rise, from 1 to ${MOST_READS}: ${thresholds.join(', ')}`, {
      field: 'thresholds',
    });
  const specsOf = ({ tables }: Unit): TableSpec[] => tables.map(({ index }) => bundle.spec.tables[index] as TableSpec);
  const wanted = new Set(units.filter((unit) => prunable(bundle.spec, specsOf(unit))));
  const reads = new RowReads(bundle, new Set([...wanted].flatMap(({ tables }) => tables.map(({ index }) => index))));
  await reads.addFile(prune.requests, { signal, onProgress: (done, total) => onProgress?.(Number((done / total).toFixed(1)), 1) });
  const pruned: Unit[] = [];
  for (const unit of units) {
    if (!wanted.has(unit)) {
      pruned.push(unit);
      continue;
    }
    const [first, ...others] = await Promise.all(unit.tables.map(({ index }) => reads.ofTable(index, options.directory)));
    const ofUnit = first as Uint8Array;
    for (const other of others) other.forEach((count, row) => (ofUnit[row] = Math.min(MOST_READS, (ofUnit[row] as number) + count)));
    const specs = specsOf(unit);
    keepNamed(bundle.spec, specs, ofUnit);
    pruned.push({ ...unit, prunings: await prunings(bundle.spec, specs, unit.stored, { reads: ofUnit, thresholds }) });
  }
  return pruned;
}

/** The first is as it is. */
const variantsOf = (unit: Unit): Variant[] =>
  unit.formats.flatMap((_, format) => [ALL_ROWS, ...unit.prunings.keys()].map((pruning) => ({ format, pruning })));

/** What the changes of a unit lose alone; null: the format cannot hold the rows. */
interface Losses {
  readonly formats: readonly (number | null)[];
  readonly prunings: readonly number[];
}

class Search {
  /** What scores are held against: labels, or the scores of the bundle as it is. */
  #targets: ArrayLike<number> = [];
  #baseline: Float64Array = new Float64Array(0);
  #done = 0;
  #total: number;
  /** Packed files by name that are kept from one measurement of all to the next. */
  readonly #kept = new Map<string, StoredRows>();
  /** As they were written. */
  readonly #keyBytes = new Map<KeptRows, number>();
  #last: { readonly chosen: string; readonly items: ScoredItems } | null = null;

  constructor(
    private readonly bundle: Bundle,
    private readonly units: readonly Unit[],
    private readonly meter: FormatMeter,
    private readonly directory: string,
    private readonly options: ChooseOptions,
  ) {
    // The bundle as it is, every choice, and the chosen ones together.
    this.#total = 2 + units.reduce((sum, { formats, prunings }) => sum + formats.length - 1 + prunings.length, 0);
  }

  async run(): Promise<ChosenFormats> {
    const { bound } = this.options;
    const before = await this.#score(new Map());
    const neBefore = this.#start(before);
    const losses: Losses[] = [];
    for (const unit of this.units) losses.push({ formats: await this.#measureFormats(unit), prunings: await this.#measurePrunings(unit) });
    const possible = this.units.map((unit, u) =>
      variantsOf(unit)
        .map((variant) => ({ variant, bytes: this.#bytesOf(unit, variant), loss: lossOfBoth(losses[u] as Losses, variant) }))
        .filter(({ loss }) => loss !== Number.POSITIVE_INFINITY),
    );
    const steps = orderedSteps(possible);
    const chosenOf = (selection: readonly number[]): Variant[] =>
      choicesOf(steps, selection, this.units.length).map((at, u) => possible[u]?.[at]?.variant ?? AS_IT_IS);
    const measure = async (selection: readonly number[]): Promise<number> => this.#lossOf(await this.#measureAll(chosenOf(selection)));
    const { selection, loss } = await fitSelection(steps, bound, measure);
    const chosen = chosenOf(selection);
    const after = selection.length > 0 ? await this.#measureAll(chosen) : before;
    const { signal } = this.options;
    const { low, high } = await relativeRise(this.#baseline, lossesByRequest(after, this.#targets), signal ? { signal } : {});
    return { ...this.#result(losses, chosen), neBefore, neAfter: neBefore * (1 + loss), loss, lossInterval: { low, high } };
  }

  /** Normalized entropy as it is. */
  #start(before: ScoredItems): number {
    const { bounded = 'ne' } = this.options;
    if (bounded === 'ne') {
      this.#targets = before.labels;
      this.#baseline = lossesByRequest(before);
      return new AccuracyMeter(before).accuracy().ne;
    }
    this.#targets = before.scores;
    this.#baseline = lossesByRequest(before, before.scores);
    const items = before.scores.length;
    const ne = sum(this.#baseline) / items / entropy(sum(before.scores) / items);
    if (items > 0 && sum(this.#baseline) > 0) return ne;
    throw new TerabagError('invalid_argument', `scores have to leave something open, between 0 and 1: ${items} items`, { items });
  }

  #bytesOf({ stored, formats, prunings }: Unit, { format, pruning }: Variant): number {
    const width = rowBytes(formats[format] as RowFormat, stored.spec.dim);
    const kept = prunings[pruning]?.kept;
    if (kept === undefined) return stored.rows * width + (stored.index?.bytes ?? 0);
    return kept.count * width + (this.#keyBytes.get(kept) ?? keyBytes(kept.count));
  }

  #result(
    losses: readonly Losses[],
    chosen: readonly Variant[],
  ): Pick<ChosenFormats, 'formats' | 'prunings' | 'choices' | 'bounded' | 'bytesBefore' | 'bytesAfter'> {
    const formats = new Map<string, RowFormat>();
    const pruned = new Map<string, Pruning>();
    let saved = 0;
    for (const [u, unit] of this.units.entries()) {
      const { format, pruning } = chosen[u] as Variant;
      saved += this.#bytesOf(unit, AS_IT_IS) - this.#bytesOf(unit, { format, pruning });
      for (const { name, index } of unit.tables) {
        if (format > 0) formats.set(name, unit.formats[format] as RowFormat);
        if (pruning !== ALL_ROWS)
          pruned.set(name, pruningOf(this.bundle.spec.tables[index] as TableSpec, unit.prunings[pruning] as Pruning));
      }
    }
    const tensors = new Map(this.bundle.tables.map((open) => [`${open?.path}\0${open?.byteOffset}`, open as OpenTable]));
    const before = [...tensors.values()].reduce((total, { bytes, index }) => total + bytes + (index?.bytes ?? 0), 0);
    const choices = this.units.flatMap((unit, u) => this.#choices(unit, losses[u] as Losses, chosen[u] as Variant));
    const { bounded = 'ne' } = this.options;
    return { formats, prunings: pruned, choices, bounded, bytesBefore: before, bytesAfter: before - saved };
  }

  #choices(unit: Unit, losses: Losses, chosen: Variant): MeasuredChoice[] {
    const tables = unit.tables.map(({ name }) => name);
    const ofFormats = unit.formats.map((format, f): MeasuredChoice => {
      const measured = { bytes: this.#bytesOf(unit, { format: f, pruning: ALL_ROWS }), loss: losses.formats[f] ?? null };
      return { tables, format, rows: unit.stored.rows, atLeast: null, unseen: null, ...measured, chosen: chosen.format === f };
    });
    const ofPrunings = unit.prunings.map(({ kept, unseen }, pruning): MeasuredChoice => {
      const measured = { bytes: this.#bytesOf(unit, { format: 0, pruning }), loss: losses.prunings[pruning] ?? null };
      const how = { atLeast: kept.atLeast, unseen: (unseen ?? unit.stored.spec.unseen)?.policy ?? null };
      return { tables, format: unit.formats[0] as RowFormat, rows: kept.count, ...how, ...measured, chosen: chosen.pruning === pruning };
    });
    return [...ofFormats, ...ofPrunings];
  }

  async #measureFormats(unit: Unit): Promise<(number | null)[]> {
    const losses: (number | null)[] = [0];
    for (let format = 1; format < unit.formats.length; format++) {
      const stored = await this.#store(unit, { format, pruning: ALL_ROWS }).catch((error: unknown) => {
        // Values beyond fp16, or rows that are not finite: this format is none for the table.
        if (error instanceof TerabagError && error.code === 'bad_table') return null;
        throw error;
      });
      if (stored === null) {
        losses.push(null);
        this.#step();
        continue;
      }
      losses.push(this.#lossOf(await this.#score(this.#storedBy([[unit, stored]]))));
      await remove(stored);
    }
    return losses;
  }

  async #measurePrunings(unit: Unit): Promise<number[]> {
    const losses: number[] = [];
    let stored: StoredRows | null = null;
    for (const [pruning, { kept }] of unit.prunings.entries()) {
      // Policies of the same rows come one after another.
      if (stored?.pruned?.pruning.kept !== kept) {
        if (stored !== null) await remove(stored);
        stored = await this.#store(unit, { format: 0, pruning });
      }
      const index = stored.pruned?.index as OpenKeyIndex;
      const rows = { ...stored, pruned: { pruning: unit.prunings[pruning] as Pruning, index } };
      losses.push(this.#lossOf(await this.#score(this.#storedBy([[unit, rows]]))));
    }
    if (stored !== null) await remove(stored);
    return losses;
  }

  /** All units as chosen, together. */
  async #measureAll(chosen: readonly Variant[]): Promise<ScoredItems> {
    const key = JSON.stringify(chosen);
    if (this.#last?.chosen === key) return this.#last.items;
    const nameOf = (u: number): string => `${u} ${JSON.stringify(chosen[u])}`;
    const changed = [...this.units.keys()].filter((u) => JSON.stringify(chosen[u]) !== JSON.stringify(AS_IT_IS));
    const wanted = new Set(changed.map(nameOf));
    for (const [name, rows] of this.#kept) {
      if (wanted.has(name)) continue;
      this.#kept.delete(name);
      await remove(rows);
    }
    const stored: [Unit, StoredRows][] = [];
    for (const u of changed) {
      const unit = this.units[u] as Unit;
      const rows = this.#kept.get(nameOf(u)) ?? (await this.#store(unit, chosen[u] as Variant));
      this.#kept.set(nameOf(u), rows);
      stored.push([unit, rows]);
    }
    this.#total = Math.max(this.#total, this.#done + 1);
    this.#last = { chosen: key, items: await this.#score(this.#storedBy(stored)) };
    return this.#last.items;
  }

  async #store(unit: Unit, { format: f, pruning: p }: Variant): Promise<StoredRows> {
    const { file, tensor, formats, stored } = unit;
    const format = formats[f] as RowFormat;
    const pruning = unit.prunings[p];
    const { signal } = this.options;
    const name = `${this.units.indexOf(unit)}-${f}-${p}`;
    const path = join(this.directory, `${name}.safetensors`);
    const source = join(this.bundle.dir, file);
    const header = await readTableFile(
      source,
      this.bundle.spec.tables.filter((table) => table.file === file),
    );
    const kept = pruning && { kept: new Map([[tensor, pruning.kept]]) };
    const packing = { only: new Set([tensor]), header, ...(signal && { signal }), ...kept };
    await packFile(source, path, new Map([[tensor, format]]), packing);
    const byteOffset = (await readSafetensorsHeader(path)).tensors.get(tensor)?.byteOffset ?? 0;
    if (pruning === undefined) return { path, byteOffset, format, pruned: null };
    const index = await this.#writeKeys(join(this.directory, `${name}.keys.safetensors`), pruning.kept, stored.index);
    return { path, byteOffset, format, pruned: { pruning, index } };
  }

  async #writeKeys(path: string, kept: KeptRows, index: OpenKeyIndex | null): Promise<OpenKeyIndex> {
    const { tensor, buckets, seed } = await writeKeptKeys(path, { kept, index, signal: this.options.signal });
    const byteOffset = (await readSafetensorsHeader(path)).tensors.get(tensor)?.byteOffset ?? 0;
    const bytes = buckets * BUCKET_BYTES;
    this.#keyBytes.set(kept, bytes);
    return { path, byteOffset, buckets, bytes, keys: kept.count, seed };
  }

  #storedBy(units: readonly (readonly [Unit, StoredRows])[]): Map<number, StoredRows> {
    return new Map(
      units.flatMap(([{ tables }, stored]) =>
        tables.map(({ index }): [number, StoredRows] => {
          if (stored.pruned === null) return [index, stored];
          const pruning = pruningOf(this.bundle.spec.tables[index] as TableSpec, stored.pruned.pruning);
          return [index, { ...stored, pruned: { ...stored.pruned, pruning } }];
        }),
      ),
    );
  }

  async #score(stored: ReadonlyMap<number, StoredRows>): Promise<ScoredItems> {
    const items = await this.meter.score(stored, (done, total) =>
      this.options.onProgress?.(Number((this.#done + done / total).toFixed(1)), this.#total),
    );
    this.#step();
    return items;
  }

  #step(): void {
    this.options.onProgress?.(++this.#done, this.#total);
  }

  /** Labels are the same, so that normalized entropy rises as the log loss does. */
  #lossOf(items: ScoredItems): number {
    const before = sum(this.#baseline);
    return (sum(lossesByRequest(items, this.#targets)) - before) / before;
  }
}

const remove = async ({ path, pruned }: StoredRows): Promise<void> => {
  await rm(path);
  if (pruned !== null) await rm(pruned.index.path);
};

/** Changes that are made at once are taken to lose what each does alone; one that measured better pays for no other. */
function lossOfBoth({ formats, prunings }: Losses, { format, pruning }: Variant): number {
  const ofFormat = formats[format] ?? Number.POSITIVE_INFINITY;
  return Math.max(0, ofFormat) + Math.max(0, prunings[pruning] ?? 0);
}

const sum = (values: Float64Array): number => values.reduce((total, value) => total + value, 0);
