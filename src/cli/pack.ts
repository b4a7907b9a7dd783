import { access, stat } from 'node:fs/promises';
import { Command, InvalidArgumentError, Option } from 'commander';
import { TerabagError } from '../errors.js';
import {
  BOUNDED,
  type Bounded,
  type ChooseOptions,
  type ChosenFormats,
  chooseFormats,
  type MeasuredChoice,
  TRIED_FORMATS,
} from '../lab/choose-formats/choose-formats.js';
import { TRIED_READS } from '../lab/choose-formats/prunings.js';
import { formatBytes } from '../lab/report/numbers.js';
import { describeFormat, ROW_FORMATS, type RowFormat } from '../model/formats.js';
import { MOST_READS } from '../pack/kept-rows.js';
import { type PackedTable, packBundle } from '../pack/pack-bundle.js';
import { notPackable, packable, packFile } from '../pack/pack-file.js';
import type { Pruning } from '../pack/prune-table.js';
import { outputError, refuseUnwritable } from '../tables/atomic.js';
import { refuseUsed } from '../tables/output-directory.js';
import { readSafetensorsHeader } from '../tables/safetensors.js';
import { further } from './help.js';
import { interruption } from './interruption.js';
import { commaSeparated, position, positiveInteger, positiveIntegers, positiveShare, verifyOption } from './options.js';
import { refuseOneFile } from './output-files.js';
import { type OnProgress, withProgress } from './progress.js';
import { bytes, figure, numeric, printTable, signedPercent, text } from './table.js';

interface PackCommandOptions {
  readonly output: string;
  readonly format: RowFormat | typeof AUTO;
  readonly tables?: string[];
  readonly verify: 'full' | 'size';
  readonly json?: boolean;
  readonly keep?: Keep;
  readonly requests?: string;
  readonly labels?: string;
  readonly formats?: RowFormat[];
  readonly prune?: string;
  readonly pruneBelow?: number[];
  readonly scoreOf?: string;
  readonly score?: number;
  readonly logits?: boolean;
  readonly concurrency: number;
}

/** Chosen table by table. */
const AUTO = 'auto';

const PACK_FORMATS = ROW_FORMATS.filter((format) => format !== 'fp32');

interface Keep {
  readonly bounded: Bounded;
  readonly bound: number;
}

/** ne=0.02%: what is bounded, and by how much. */
function keepBound(text: string): Keep {
  const [, name, share = ''] = /^(\w+)=(.+)$/.exec(text) ?? [];
  const bounded = BOUNDED.find((each) => each === name);
  if (bounded === undefined) throw new InvalidArgumentError('It has to be ne= or kl= and a share, such as ne=0.02%.');
  return { bounded, bound: positiveShare(share) };
}

function readCounts(text: string): number[] {
  const counts = [...new Set(positiveIntegers(text))].sort((a, b) => a - b);
  if ((counts.at(-1) ?? 0) > MOST_READS) throw new InvalidArgumentError(`Reads are counted up to ${MOST_READS}.`);
  return counts;
}

function triedFormats(text: string): RowFormat[] {
  return commaSeparated(text).map((word) => {
    const format = PACK_FORMATS.find((each) => each === word);
    if (format === undefined) throw new InvalidArgumentError(`They are of ${PACK_FORMATS.join(', ')}.`);
    return format;
  });
}

export const packCommand = new Command('pack')
  .description('write a bundle, or one safetensors file, with its tables in a smaller row format')
  .argument('<source>', 'directory of the model, or a safetensors file with plain tables')
  .requiredOption('-o, --output <path>', 'the new directory, which must be empty or not there, or the new file, which must not be there')
  .addOption(
    new Option('--format <format>', `row format: ${PACK_FORMATS.map(describeFormat).join(', ')}; auto: chosen for each table by --keep`)
      .choices([...PACK_FORMATS, AUTO])
      .makeOptionMandatory(),
  )
  .option('--tables <list>', 'only these tables (of a file: tensors), comma-separated', commaSeparated)
  .option(
    '--keep <bound>',
    'with auto: how much accuracy may be lost: ne=0.02% is a rise of normalized entropy by 0.0002 of what it is; kl=0.02% bounds, without labels, how far the scores move from what they are',
    keepBound,
  )
  .option('--requests <file>', 'with auto: requests that are scored again and again, as terabag evaluate takes them')
  .option('--labels <file>', 'with auto and ne: their labels, as terabag evaluate takes them')
  .option(`--formats <list>`, `with auto: formats that are tried (default: ${TRIED_FORMATS.join(',')})`, triedFormats)
  .option('--prune <requests>', 'with auto: leave out rows that these requests never or rarely read; not those of --requests')
  .option(
    '--prune-below <list>',
    `with --prune: numbers of reads that are tried, below which rows are left out (default: ${TRIED_READS.join(',')})`,
    readCounts,
  )
  .option('--score-of <name>', "with auto: further output of the model that the labels are of (default: the model's first)")
  .option('--score <n>', 'with auto: which of several scores of an item the labels are of, from 0', position)
  .option('--logits', 'with auto: scores are logits')
  .option('--concurrency <n>', 'with auto: requests in flight', positiveInteger, 8)
  .addOption(verifyOption())
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    further(`
Rows are quantized one by one, as PyTorch and FBGEMM do; scale and bias lie at the end of each row. The error is that of the values,
not of the scores: compare them on requests of yours before you serve, or let auto choose.

auto scores labelled requests with each table in each format, the others as they are, and prints what each choice costs. Of these it takes what saves
most bytes for the normalized entropy that it loses, measures all that it has chosen together, and steps back where they lose more than their
sum. It takes as many runs over the requests as there are choices, and a few more. The bound holds on these requests: look at others with
terabag evaluate.

--prune counts how often requests, such as those that the model was trained on, read each row, and tries to leave out those that they read less often than
each of some numbers. A table that is pruned is keyed by the ids of the rows that stay; an index of them takes at most 16 bytes each, and counts as
bytes of the table. Ids of the others get zeros, are skipped, or get the mean of the rows that were left out, whichever costs least; what a table or a
layer says of unseen ids already stays. So do ids that the table never had: they are no error any more.

kl bounds the mean Kullback-Leibler divergence of the scores from those before, over the entropy of these: by so much normalized entropy is expected to
rise when they are calibrated.

Examples:
  terabag pack ./model -o ./model-int8 --format int8
  terabag pack ./model -o ./model-mixed --format int4 --tables user_id,item_id
  terabag pack ./model -o ./model-auto --format auto --keep ne=0.02% --requests requests.safetensors --labels labels.jsonl
  terabag pack ./model -o ./model-pruned --format auto --keep ne=0.02% --requests requests.jsonl --labels labels.jsonl --prune trained-on.jsonl
  terabag pack ./model -o ./model-kl --format auto --keep kl=0.02% --requests requests.safetensors --formats int8,int4
  terabag pack table.safetensors -o table-fp16.safetensors --format fp16 --json`),
  )
  .action(async (source: string, options: PackCommandOptions, command: Command) => {
    const interrupted = interruption();
    const isBundle = (await stat(source).catch(() => null))?.isDirectory() ?? false;
    const auto = autoOptions(source, options, isBundle, command);
    await refuseOneFile(command, { '--requests': options.requests, '--prune': options.prune });
    const chosen = auto === null ? null : await choose(source, auto, interrupted);
    if (chosen !== null && !options.json) printChoices(chosen);
    const packed = await withProgress('packing', 'bytes', (onProgress) => {
      const changes = chosen ?? { formats: options.format as RowFormat, prunings: new Map<string, Pruning>() };
      return isBundle
        ? packWholeBundle(source, options, changes, interrupted, onProgress)
        : packOneFile(source, options, options.format as RowFormat, interrupted, onProgress);
    });
    const total = (key: 'bytesBefore' | 'bytesAfter'): number => packed.reduce((sum, table) => sum + table[key], 0);
    // Of auto with the tables that stay as they are.
    const { bytesBefore, bytesAfter } = chosen ?? { bytesBefore: total('bytesBefore'), bytesAfter: total('bytesAfter') };
    if (options.json) {
      const choices = chosen && { auto: jsonOf(chosen) };
      console.log(
        JSON.stringify({ source, output: options.output, format: options.format, bytesBefore, bytesAfter, tables: packed, ...choices }),
      );
      return;
    }
    const ofKeys = packed.some(({ keyBytes }) => keyBytes !== undefined)
      ? [bytes<PackedTable>('keys', ({ keyBytes = 0 }) => keyBytes)]
      : [];
    printTable(packed, [
      text('table', ({ table }) => table),
      numeric('rows', ({ rows }) => rows),
      numeric('dim', ({ dim }) => dim),
      text('from', ({ from }) => from),
      text('to', ({ to }) => to),
      bytes('before', (table) => table.bytesBefore),
      bytes('after', (table) => table.bytesAfter),
      ...ofKeys,
      figure('max error', ({ maxError }) => maxError.toPrecision(3)),
      figure('rms error', ({ rmsError }) => rmsError.toPrecision(3)),
      figure('of the rms, %', ({ relativeError }) => (relativeError * 100).toPrecision(3)),
    ]);
    console.log(
      `${options.output}: ${formatBytes(bytesBefore)} before, ${formatBytes(bytesAfter)} after, ${(bytesBefore / bytesAfter).toFixed(2)} times smaller`,
    );
  });

type Packed = readonly PackedTable[];

/** What is written of tables. */
interface Changes extends Pick<ChosenFormats, 'prunings'> {
  readonly formats: RowFormat | ReadonlyMap<string, RowFormat>;
}

function jsonOf({ formats, prunings, ...chosen }: ChosenFormats): object {
  const pruned = [...prunings].map(([table, { kept, unseen }]) => [table, { rows: kept.count, atLeast: kept.atLeast, unseen }]);
  return { ...chosen, formats: Object.fromEntries(formats), prunings: Object.fromEntries(pruned) };
}

function packWholeBundle(
  source: string,
  { output, tables, verify }: PackCommandOptions,
  { formats: format, prunings }: Changes,
  signal: AbortSignal,
  onProgress: OnProgress,
): Promise<Packed> {
  // Those that auto leaves as they are have no format.
  const named = typeof format === 'string' && tables !== undefined ? { tables } : {};
  return packBundle(source, output, { format, prune: prunings, verify, signal, onProgress, ...named });
}

async function packOneFile(
  source: string,
  { output, tables }: PackCommandOptions,
  format: RowFormat,
  signal: AbortSignal,
  onProgress: OnProgress,
): Promise<Packed> {
  const taken = await access(output).then(
    () => true,
    () => false,
  );
  if (taken) throw new TerabagError('invalid_argument', `output is there already: ${output}`, { path: output });
  await refuseUnwritable('--output', output);
  const { tensors, fileBytes } = await readSafetensorsHeader(source);
  const chosen = [...tensors].filter(([name, info]) => tables?.includes(name) ?? packable(info) !== null);
  const unknown = tables?.find((name) => !tensors.has(name));
  if (unknown !== undefined)
    throw new TerabagError('invalid_argument', `no such tensor: ${unknown}; the file has ${[...tensors.keys()].join(', ')}`, {
      tensor: unknown,
    });
  const [first] = tensors;
  if (first === undefined) throw new TerabagError('bad_table', `file has no tensors to pack: ${source}`, { path: source });
  if (chosen.length === 0) throw notPackable(source, ...first);
  let done = 0;
  const onBytes = (bytes: number): void => {
    done += bytes;
    onProgress(done, fileBytes);
  };
  const formats = new Map(chosen.map(([name]) => [name, format]));
  const { packed } = await packFile(source, output, formats, { signal, onBytes }).catch((error: unknown) => {
    throw outputError(error, output);
  });
  return packed.map((tensor) => ({ table: tensor.tensor, ...tensor }));
}

/** What auto needs; null for a format that is named, which takes none of it. */
function autoOptions(
  source: string,
  options: PackCommandOptions,
  isBundle: boolean,
  command: Command,
): Omit<ChooseOptions, 'signal' | 'onProgress'> | null {
  const { format, keep, requests, labels = null, formats, prune, pruneBelow, scoreOf, score, logits } = options;
  if (format !== AUTO) {
    const given = {
      '--keep': keep,
      '--requests': requests,
      '--labels': options.labels,
      '--formats': formats,
      '--prune': prune,
      '--prune-below': pruneBelow,
      '--score-of': scoreOf,
      '--score': score,
      '--logits': logits,
    };
    const [name] = Object.entries(given).find(([, value]) => value !== undefined) ?? [];
    if (name !== undefined) command.error(`error: ${name} is of --format ${AUTO}`);
    return null;
  }
  if (!isBundle) command.error(`error: --format ${AUTO} needs the scores of a bundle: ${source} is none`);
  if (keep === undefined || requests === undefined || (keep.bounded === 'ne' && labels === null))
    return command.error(`error: --format ${AUTO} needs --keep, --requests and, of ne, --labels`);
  if (keep.bounded === 'kl' && labels !== null) command.error('error: --keep kl= takes no --labels');
  if (pruneBelow !== undefined && prune === undefined) command.error('error: --prune-below is of --prune');
  if ([requests, labels, prune].includes('-'))
    command.error('error: requests and labels are files: they are read again and again, and stdin is read once');
  const { tables, verify, concurrency, output: destination } = options;
  const pruning = prune === undefined ? {} : { prune: { requests: prune, thresholds: pruneBelow } };
  const scored = { requests, labels, output: scoreOf, score, kind: logits ? 'logit' : 'probability', concurrency } as const;
  return { ...keep, ...scored, formats, tables, ...pruning, verify, destination };
}

async function choose(source: string, options: Omit<ChooseOptions, 'signal' | 'onProgress'>, signal: AbortSignal): Promise<ChosenFormats> {
  await refuseUsed(options.destination);
  return withProgress('measuring', 'steps', (onProgress) => chooseFormats(source, { ...options, signal, onProgress }));
}

const TITLES: Readonly<Record<Bounded, string>> = { ne: 'NE', kl: 'divergence' };

function printChoices({ choices, bounded, neBefore, neAfter, loss, lossInterval: { low, high } }: ChosenFormats): void {
  const pruning = choices.some(({ atLeast }) => atLeast !== null);
  const ofPruning = [
    numeric<MeasuredChoice>('rows', ({ rows }) => rows),
    numeric<MeasuredChoice>('reads', ({ atLeast }) => atLeast),
    text<MeasuredChoice>('unseen', ({ unseen }) => unseen ?? ''),
  ];
  printTable<MeasuredChoice>(choices, [
    text('table', ({ tables }) => tables.join(', ')),
    text('format', ({ format }) => format),
    ...(pruning ? ofPruning : []),
    bytes('size', (choice) => choice.bytes),
    figure(TITLES[bounded], (choice) => (choice.loss === null ? 'cannot hold' : signedPercent(choice.loss))),
    text('chosen', ({ chosen }) => (chosen ? 'yes' : '')),
  ]);
  const interval = `${signedPercent(loss)} (95 % from ${signedPercent(low)} to ${signedPercent(high)})`;
  if (bounded === 'kl') console.log(`divergence from the scores before, of their entropy: ${interval}`);
  else console.log(`normalized entropy: ${neBefore.toPrecision(6)} before, ${neAfter.toPrecision(6)} after, ${interval}`);
}
