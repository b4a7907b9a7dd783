import { access, stat } from 'node:fs/promises';
import { Command, InvalidArgumentError, Option } from 'commander';
import { TerabagError } from '../errors.js';
import {
  type ChooseOptions,
  type ChosenFormats,
  chooseFormats,
  type MeasuredChoice,
  TRIED_FORMATS,
} from '../lab/choose-formats/choose-formats.js';
import { formatBytes } from '../lab/report/numbers.js';
import { describeFormat, ROW_FORMATS, type RowFormat } from '../model/formats.js';
import { packBundle } from '../pack/pack-bundle.js';
import { notPackable, type PackedTensor, packable, packFile } from '../pack/pack-file.js';
import { outputError, refuseUnwritable } from '../tables/atomic.js';
import { refuseUsed } from '../tables/output-directory.js';
import { readSafetensorsHeader } from '../tables/safetensors.js';
import { further } from './help.js';
import { interruption } from './interruption.js';
import { commaSeparated, position, positiveInteger, positiveShare, verifyOption } from './options.js';
import { type OnProgress, withProgress } from './progress.js';
import { bytes, figure, numeric, printTable, text } from './table.js';

interface PackCommandOptions {
  readonly output: string;
  readonly format: RowFormat | typeof AUTO;
  readonly tables?: string[];
  readonly verify: 'full' | 'size';
  readonly json?: boolean;
  readonly keep?: number;
  readonly requests?: string;
  readonly labels?: string;
  readonly formats?: RowFormat[];
  readonly score?: number;
  readonly logits?: boolean;
  readonly concurrency: number;
}

/** Chosen table by table. */
const AUTO = 'auto';

const PACK_FORMATS = ROW_FORMATS.filter((format) => format !== 'fp32');

/** ne=0.02%: what is bounded, and by how much. */
function keepBound(text: string): number {
  const [, share] = /^ne=(.+)$/.exec(text) ?? [];
  if (share === undefined) throw new InvalidArgumentError('It has to be ne= and a share of the normalized entropy, such as ne=0.02%.');
  return positiveShare(share);
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
    'with auto: how much accuracy may be lost: ne=0.02% is a rise of normalized entropy by 0.0002 of what it is',
    keepBound,
  )
  .option('--requests <file>', 'with auto: requests that are scored again and again, as terabag evaluate takes them')
  .option('--labels <file>', 'with auto: their labels, as terabag evaluate takes them')
  .option(`--formats <list>`, `with auto: formats that are tried (default: ${TRIED_FORMATS.join(',')})`, triedFormats)
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

Examples:
  terabag pack ./model -o ./model-int8 --format int8
  terabag pack ./model -o ./model-mixed --format int4 --tables user_id,item_id
  terabag pack ./model -o ./model-auto --format auto --keep ne=0.02% --requests requests.safetensors --labels labels.jsonl
  terabag pack table.safetensors -o table-fp16.safetensors --format fp16 --json`),
  )
  .action(async (source: string, options: PackCommandOptions, command: Command) => {
    const interrupted = interruption();
    const isBundle = (await stat(source).catch(() => null))?.isDirectory() ?? false;
    const auto = autoOptions(source, options, isBundle, command);
    const chosen = auto === null ? null : await choose(source, auto, interrupted);
    if (chosen !== null && !options.json) printChoices(chosen);
    const packed = await withProgress('packing', 'bytes', (onProgress) => {
      const formats = chosen?.formats ?? (options.format as RowFormat);
      return isBundle
        ? packWholeBundle(source, options, formats, interrupted, onProgress)
        : packOneFile(source, options, options.format as RowFormat, interrupted, onProgress);
    });
    const total = (key: 'bytesBefore' | 'bytesAfter'): number => packed.reduce((sum, table) => sum + table[key], 0);
    // Of auto with the tables that stay as they are.
    const { bytesBefore, bytesAfter } = chosen ?? { bytesBefore: total('bytesBefore'), bytesAfter: total('bytesAfter') };
    if (options.json) {
      const choices = chosen && { auto: { ...chosen, formats: Object.fromEntries(chosen.formats) } };
      console.log(
        JSON.stringify({ source, output: options.output, format: options.format, bytesBefore, bytesAfter, tables: packed, ...choices }),
      );
      return;
    }
    printTable(packed, [
      text('table', ({ table }) => table),
      numeric('rows', ({ rows }) => rows),
      numeric('dim', ({ dim }) => dim),
      text('from', ({ from }) => from),
      text('to', ({ to }) => to),
      bytes('before', (table) => table.bytesBefore),
      bytes('after', (table) => table.bytesAfter),
      figure('max error', ({ maxError }) => maxError.toPrecision(3)),
      figure('rms error', ({ rmsError }) => rmsError.toPrecision(3)),
      figure('of the rms, %', ({ relativeError }) => (relativeError * 100).toPrecision(3)),
    ]);
    console.log(
      `${options.output}: ${formatBytes(bytesBefore)} before, ${formatBytes(bytesAfter)} after, ${(bytesBefore / bytesAfter).toFixed(2)} times smaller`,
    );
  });

type Packed = readonly (PackedTensor & { readonly table: string })[];

function packWholeBundle(
  source: string,
  { output, tables, verify }: PackCommandOptions,
  format: RowFormat | ReadonlyMap<string, RowFormat>,
  signal: AbortSignal,
  onProgress: OnProgress,
): Promise<Packed> {
  // Those that auto leaves as they are have no format.
  const named = typeof format === 'string' && tables !== undefined ? { tables } : {};
  return packBundle(source, output, { format, verify, signal, onProgress, ...named });
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
  { format, keep, requests, labels, formats, score, logits, output, tables, verify, concurrency }: PackCommandOptions,
  isBundle: boolean,
  command: Command,
): Omit<ChooseOptions, 'signal' | 'onProgress'> | null {
  if (format !== AUTO) {
    const given = {
      '--keep': keep,
      '--requests': requests,
      '--labels': labels,
      '--formats': formats,
      '--score': score,
      '--logits': logits,
    };
    const [name] = Object.entries(given).find(([, value]) => value !== undefined) ?? [];
    if (name !== undefined) command.error(`error: ${name} is of --format ${AUTO}`);
    return null;
  }
  if (!isBundle) command.error(`error: --format ${AUTO} needs the scores of a bundle: ${source} is none`);
  if (keep === undefined || requests === undefined || labels === undefined)
    return command.error(`error: --format ${AUTO} needs --keep, --requests and --labels`);
  if (requests === '-' || labels === '-') command.error('error: requests and labels are read again and again: stdin is read once');
  const kind = logits ? 'logit' : 'probability';
  return { bound: keep, requests, labels, formats, tables, verify, score, kind, concurrency, destination: output };
}

async function choose(source: string, options: Omit<ChooseOptions, 'signal' | 'onProgress'>, signal: AbortSignal): Promise<ChosenFormats> {
  await refuseUsed(options.destination);
  return withProgress('measuring', 'steps', (onProgress) => chooseFormats(source, { ...options, signal, onProgress }));
}

const percent = (share: number): string => `${share < 0 ? '' : '+'}${(100 * share).toPrecision(3)} %`;

function printChoices({ choices, neBefore, neAfter, loss, lossInterval: { low, high } }: ChosenFormats): void {
  printTable<MeasuredChoice>(choices, [
    text('table', ({ tables }) => tables.join(', ')),
    text('format', ({ format }) => format),
    bytes('size', (choice) => choice.bytes),
    figure('normalized entropy', (choice) => (choice.loss === null ? 'cannot hold the rows' : percent(choice.loss))),
    text('chosen', ({ chosen }) => (chosen ? 'yes' : '')),
  ]);
  console.log(
    `normalized entropy: ${neBefore.toPrecision(6)} before, ${neAfter.toPrecision(6)} after, ${percent(loss)} (95 % from ${percent(low)} to ${percent(high)})`,
  );
}
