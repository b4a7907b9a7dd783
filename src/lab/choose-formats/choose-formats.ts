import { mkdtemp, rm } from 'node:fs/promises';
import { dirname, join, normalize, resolve } from 'node:path';
import { TerabagError } from '../../errors.js';
import { type Bundle, checkOpened, DENSE_FILE, openBundle } from '../../model/bundle.js';
import type { Verify } from '../../model/bundle-files.js';
import { isPacked, type RowFormat, rowBytes } from '../../model/formats.js';
import { readTableFile } from '../../model/table-file.js';
import { packFile } from '../../pack/pack-file.js';
import { checkRoom } from '../../tables/output-directory.js';
import { readSafetensorsHeader } from '../../tables/safetensors.js';
import { AccuracyMeter, lossesByRequest } from '../evaluate/accuracy.js';
import { bootstrap, type ConfidenceInterval } from '../evaluate/bootstrap.js';
import type { EvaluateOptions } from '../evaluate/evaluate-requests.js';
import type { ScoredItems } from '../evaluate/scored-items.js';
import { FormatMeter, type StoredRows } from './format-meter.js';
import { choicesOf, fitSelection, orderedSteps } from './steps.js';

/** Formats that are tried where nothing else is said; bf16 is as large as fp16, and less precise in the range of both. */
export const TRIED_FORMATS: readonly RowFormat[] = ['fp16', 'int8', 'int8_fp16', 'int4'];

export interface ChooseOptions extends Pick<EvaluateOptions, 'requests' | 'labels' | 'concurrency' | 'score' | 'kind' | 'signal'> {
  /** The most that normalized entropy may rise, relative to that of the bundle as it is: 0.0002 is 0.02 %. */
  readonly bound: number;
  /** Default TRIED_FORMATS. */
  readonly formats?: readonly RowFormat[] | undefined;
  /** Names of the tables that may change; default all plain ones. */
  readonly tables?: readonly string[] | undefined;
  /** How the bundle is checked first; default full. */
  readonly verify?: Verify | undefined;
  /** What is written meanwhile lies beside it. */
  readonly destination: string;
  /** Evaluations; their number changes when the whole is measured. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/** A format of tables that share a tensor, mostly one table. */
export interface MeasuredChoice {
  readonly tables: readonly string[];
  readonly format: RowFormat;
  readonly bytes: number;
  /** How much normalized entropy rises, relative, with this change alone; null where the format cannot hold the rows. */
  readonly loss: number | null;
  readonly chosen: boolean;
}

export interface ChosenFormats {
  /** By table; those that stay as they are are not in it. */
  readonly formats: ReadonlyMap<string, RowFormat>;
  readonly choices: readonly MeasuredChoice[];
  readonly bytesBefore: number;
  readonly bytesAfter: number;
  readonly neBefore: number;
  readonly neAfter: number;
  /** Relative rise of normalized entropy with all changes at once, as it was measured, and its interval. */
  readonly loss: number;
  readonly lossInterval: ConfidenceInterval;
}

/** Tables that share a tensor: they are packed together. */
interface Unit {
  readonly tables: readonly { readonly name: string; readonly index: number }[];
  readonly file: string;
  readonly tensor: string;
  readonly rows: number;
  readonly dim: number;
  /** The first is as it is. */
  readonly formats: readonly RowFormat[];
}

const DEADLINE_MS = 60_000;
const bytesOf = ({ rows, dim }: Unit, format: RowFormat): number => rows * rowBytes(format, dim);

/**
 * Chooses the row format of each table for the least bytes within a bound on normalized entropy, by measuring it on labelled requests: every
 * format of every table alone, then all that are chosen together. Nothing but temporary files is written, one table at a time until all are measured together.
 */
export async function chooseFormats(bundleDir: string, options: ChooseOptions): Promise<ChosenFormats> {
  const bundle = await openBundle(bundleDir, { verify: 'later' });
  if (bundle.spec.published !== undefined)
    throw new TerabagError('invalid_argument', `what was published cannot be packed; pack the source, plan and publish it: ${bundleDir}`, {
      path: bundleDir,
    });
  await checkOpened(bundle, options.verify ?? 'full');
  const units = unitsOf(bundle, options);
  await checkRoom(dirname(resolve(options.destination)), Math.max(...units.map((unit) => bytesOf(unit, unit.formats[0] as RowFormat))));
  const directory = await mkdtemp(join(dirname(resolve(options.destination)), '.terabag-formats-'));
  const meter = await FormatMeter.open(bundle, { ...options, deadlineMs: DEADLINE_MS });
  try {
    return await new Search(bundle, units, meter, directory, options).run();
  } finally {
    await meter.close();
    await rm(directory, { recursive: true, force: true });
  }
}

function unitsOf({ spec, dense }: Bundle, { formats = TRIED_FORMATS, tables }: ChooseOptions): Unit[] {
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
    const { file, tensor, rows, dim, format } = spec.tables[group[0]?.index ?? 0] as (typeof spec.tables)[number];
    const readByLayers = normalize(file) === DENSE_FILE && dense.has(tensor);
    const wanted = group.every(({ name }) => tables?.includes(name) ?? true);
    const smaller = formats.filter((each) => rowBytes(each, dim) < rowBytes(format, dim));
    if (!wanted || readByLayers || isPacked(format) || smaller.length === 0) return [];
    return [{ tables: group, file, tensor, rows, dim, formats: [format, ...smaller] }];
  });
  if (units.length > 0) return units;
  throw new TerabagError('invalid_argument', 'no table can be made smaller: all are packed, or as small in the formats that are tried');
}

/** null: the format cannot hold the rows. */
type Losses = readonly (readonly (number | null)[])[];

class Search {
  #baseline: Float64Array = new Float64Array(0);
  #done = 0;
  #total: number;
  /** Packed files by unit and format that are kept from one measurement of all to the next. */
  readonly #kept = new Map<string, StoredRows>();
  #last: ScoredItems | null = null;

  constructor(
    private readonly bundle: Bundle,
    private readonly units: readonly Unit[],
    private readonly meter: FormatMeter,
    private readonly directory: string,
    private readonly options: ChooseOptions,
  ) {
    // The bundle as it is, every choice, and the chosen ones together.
    this.#total = 2 + units.reduce((sum, { formats }) => sum + formats.length - 1, 0);
  }

  async run(): Promise<ChosenFormats> {
    const { bound } = this.options;
    const before = await this.#score(new Map());
    const neBefore = new AccuracyMeter(before).accuracy().ne;
    this.#baseline = lossesByRequest(before);
    const losses: (number | null)[][] = [];
    for (const unit of this.units.keys()) losses.push(await this.#measureUnit(unit));
    const choices = this.units.map((unit, u) =>
      unit.formats.map((format, f) => ({ bytes: bytesOf(unit, format), loss: losses[u]?.[f] ?? Number.POSITIVE_INFINITY })),
    );
    const possible = choices.map((each) => each.filter(({ loss }) => loss !== Number.POSITIVE_INFINITY));
    const steps = orderedSteps(possible);
    const chosenOf = (selection: readonly number[]): number[] =>
      choicesOf(steps, selection, this.units.length).map((at, u) => choices[u]?.indexOf(possible[u]?.[at] as (typeof choices)[0][0]) ?? 0);
    let after = before;
    const { selection, loss } = await fitSelection(steps, bound, async (tried) => this.#lossOf(await this.#measureAll(chosenOf(tried))));
    const chosen = chosenOf(selection);
    if (selection.length > 0) after = await this.#measureAll(chosen);
    const lossInterval = await this.#interval(lossesByRequest(after));
    return { ...this.#result(losses, chosen), neBefore, neAfter: neBefore * (1 + loss), loss, lossInterval };
  }

  #result(losses: Losses, chosen: readonly number[]): Pick<ChosenFormats, 'formats' | 'choices' | 'bytesBefore' | 'bytesAfter'> {
    const formats = new Map<string, RowFormat>();
    const choices: MeasuredChoice[] = [];
    let saved = 0;
    const tensors = new Map(this.bundle.spec.tables.map((table) => [`${normalize(table.file)}\0${table.tensor}`, table]));
    const before = [...tensors.values()].reduce((sum, { rows, dim, format }) => sum + rows * rowBytes(format, dim), 0);
    for (const [u, unit] of this.units.entries()) {
      const tables = unit.tables.map(({ name }) => name);
      for (const [f, format] of unit.formats.entries()) {
        const isChosen = chosen[u] === f;
        choices.push({ tables, format, bytes: bytesOf(unit, format), loss: losses[u]?.[f] ?? null, chosen: isChosen });
        if (!isChosen || f === 0) continue;
        for (const name of tables) formats.set(name, format);
        saved += bytesOf(unit, unit.formats[0] as RowFormat) - bytesOf(unit, format);
      }
    }
    return { formats, choices, bytesBefore: before, bytesAfter: before - saved };
  }

  async #measureUnit(u: number): Promise<(number | null)[]> {
    const unit = this.units[u] as Unit;
    const losses: (number | null)[] = [0];
    for (const [f] of unit.formats.entries()) {
      if (f === 0) continue;
      const stored = await this.#pack(u, f).catch((error: unknown) => {
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
      await rm(stored.path);
    }
    return losses;
  }

  /** All units as chosen, together. */
  async #measureAll(chosen: readonly number[]): Promise<ScoredItems> {
    const key = (u: number): string => `${u} ${chosen[u]}`;
    const wanted = new Set(chosen.flatMap((f, u) => (f === 0 ? [] : [key(u)])));
    for (const [kept, { path }] of this.#kept) {
      if (wanted.has(kept)) continue;
      this.#kept.delete(kept);
      this.#last = null;
      await rm(path);
    }
    const stored: [Unit, StoredRows][] = [];
    for (const [u, f] of chosen.entries()) {
      if (f === 0) continue;
      let rows = this.#kept.get(key(u));
      if (rows === undefined) {
        rows = await this.#pack(u, f);
        this.#kept.set(key(u), rows);
        this.#last = null;
      }
      stored.push([this.units[u] as Unit, rows]);
    }
    this.#total = Math.max(this.#total, this.#done + 1);
    this.#last ??= await this.#score(this.#storedBy(stored));
    return this.#last;
  }

  async #pack(u: number, f: number): Promise<StoredRows> {
    const { file, tensor, formats } = this.units[u] as Unit;
    const format = formats[f] as RowFormat;
    const path = join(this.directory, `${u}-${format}.safetensors`);
    const { signal } = this.options;
    const only = new Set([tensor]);
    const source = join(this.bundle.dir, file);
    const header = await readTableFile(
      source,
      this.bundle.spec.tables.filter((table) => table.file === file),
    );
    await packFile(source, path, new Map([[tensor, format]]), { only, header, ...(signal && { signal }) });
    const packed = (await readSafetensorsHeader(path)).tensors.get(tensor);
    return { path, byteOffset: packed?.byteOffset ?? 0, format };
  }

  #storedBy(units: readonly (readonly [Unit, StoredRows])[]): Map<number, StoredRows> {
    return new Map(units.flatMap(([{ tables }, stored]) => tables.map(({ index }) => [index, stored] as const)));
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
    return (sum(lossesByRequest(items)) - before) / before;
  }

  /** Of the rise, over requests: both are scored on the same ones. */
  async #interval(after: Float64Array): Promise<ConfidenceInterval> {
    const before = this.#baseline;
    const dot = (losses: Float64Array, counts: Uint32Array): number =>
      losses.reduce((total, loss, at) => total + loss * (counts[at] as number), 0);
    const work = (counts: Uint32Array) => {
      const base = dot(before, counts);
      return base === 0 ? null : { loss: dot(after, counts) / base - 1 };
    };
    const { signal } = this.options;
    return (await bootstrap(before.length, ['loss'], work, signal ? { signal } : {})).loss;
  }
}

const sum = (values: Float64Array): number => values.reduce((total, value) => total + value, 0);
