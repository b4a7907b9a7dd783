import { access, stat } from 'node:fs/promises';
import { Command, Option } from 'commander';
import { TerabagError } from '../errors.js';
import { formatBytes } from '../lab/report/numbers.js';
import { describeFormat, ROW_FORMATS, type RowFormat } from '../model/formats.js';
import { packBundle } from '../pack/pack-bundle.js';
import { notPackable, type PackedTensor, packable, packFile } from '../pack/pack-file.js';
import { outputError, refuseUnwritable } from '../tables/atomic.js';
import { readSafetensorsHeader } from '../tables/safetensors.js';
import { further } from './help.js';
import { interruption } from './interruption.js';
import { commaSeparated, verifyOption } from './options.js';
import { type OnProgress, withProgress } from './progress.js';
import { bytes, figure, numeric, printTable, text } from './table.js';

interface PackCommandOptions {
  readonly output: string;
  readonly format: RowFormat;
  readonly tables?: string[];
  readonly verify: 'full' | 'size';
  readonly json?: boolean;
}

const PACK_FORMATS = ROW_FORMATS.filter((format) => format !== 'fp32');

export const packCommand = new Command('pack')
  .description('write a bundle, or one safetensors file, with its tables in a smaller row format')
  .argument('<source>', 'directory of the model, or a safetensors file with plain tables')
  .requiredOption('-o, --output <path>', 'the new directory, which must be empty or not there, or the new file, which must not be there')
  .addOption(
    new Option('--format <format>', `row format: ${PACK_FORMATS.map(describeFormat).join(', ')}`)
      .choices(PACK_FORMATS)
      .makeOptionMandatory(),
  )
  .option('--tables <list>', 'only these tables (of a file: tensors), comma-separated', commaSeparated)
  .addOption(verifyOption())
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    further(`
Rows are quantized one by one, as PyTorch and FBGEMM do; scale and bias lie at the end of each row. The error is that of the values,
not of the scores: compare them on requests of yours before you serve.

Examples:
  terabag pack ./model -o ./model-int8 --format int8
  terabag pack ./model -o ./model-mixed --format int4 --tables user_id,item_id
  terabag pack table.safetensors -o table-fp16.safetensors --format fp16 --json`),
  )
  .action(async (source: string, options: PackCommandOptions) => {
    const interrupted = interruption();
    const isBundle = (await stat(source).catch(() => null))?.isDirectory() ?? false;
    const work = isBundle ? packWholeBundle : packOneFile;
    const packed = await withProgress('packing', 'bytes', (onProgress) => work(source, options, interrupted, onProgress));
    const total = (key: 'bytesBefore' | 'bytesAfter'): number => packed.reduce((sum, table) => sum + table[key], 0);
    const [bytesBefore, bytesAfter] = [total('bytesBefore'), total('bytesAfter')];
    if (options.json) {
      console.log(JSON.stringify({ source, output: options.output, format: options.format, bytesBefore, bytesAfter, tables: packed }));
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

function packWholeBundle(source: string, options: PackCommandOptions, signal: AbortSignal, onProgress: OnProgress): Promise<Packed> {
  const { output, format, tables, verify } = options;
  return packBundle(source, output, { format, verify, signal, onProgress, ...(tables && { tables }) });
}

async function packOneFile(source: string, options: PackCommandOptions, signal: AbortSignal, onProgress: OnProgress): Promise<Packed> {
  const { output, format, tables } = options;
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
