import { Command, Option } from 'commander';
import { TerabagError } from '../errors.js';
import { type ImportReport, importBundle } from '../import/import-bundle.js';
import { readImportSpec } from '../import/import-spec.js';
import { LIKES, type Like, type LikeOptions, specLike } from '../import/like.js';
import { openCheckpoints } from '../import/open-checkpoint.js';
import { OpenFiles } from '../import/open-files.js';
import { formatBytes } from '../lab/report/numbers.js';
import { writeFileAtomic } from '../tables/atomic.js';
import { further } from './help.js';
import { interruption } from './interruption.js';
import { commaSeparated } from './options.js';
import { withProgress } from './progress.js';
import { bytes, numeric, printTable, text } from './table.js';

interface ImportCommandOptions extends LikeOptions {
  readonly output?: string;
  readonly spec?: string;
  readonly like?: Like;
  readonly writeSpec?: string;
  readonly copy?: boolean;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

export const importCommand = new Command('import')
  .description('write a bundle of a checkpoint that a trainer wrote, without Python')
  .argument(
    '<checkpoints...>',
    'a file of torch.save, safetensors or numpy, an index of safetensors, or a directory of a known kind; of several, the tensors of all',
  )
  .option('-o, --output <dir>', 'the new bundle: a directory that is empty or not there')
  .option('--spec <file>', 'what the model is: model.json without files; each table names its tensor of the checkpoint')
  .addOption(new Option('--like <model>', 'what the model is, by the names of its tensors').choices(LIKES).conflicts('spec'))
  .option(
    '--order <list>',
    'with --like: the tables in the order of the model, comma-separated, where the checkpoint does not keep it',
    commaSeparated,
  )
  .option('--name <name>', 'with --like: the name of the model', 'model')
  .option('--model-version <text>', 'with --like: its version', '1')
  .option('--write-spec <file>', 'with --like: write the spec to a file, to be changed and given as --spec')
  .option('--copy', 'copy tables that could be served in place: the bundle then shares nothing with the checkpoint')
  .option('--dry-run', 'say what would be done, and write nothing')
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    further(`
Tables whose rows lie one after another in a file are served in place: the file is cloned, or hard-linked, into the bundle. Never write to a
linked checkpoint again, which torch.save to the same path does: it ends what serves it. Other tables are copied, in little memory.
docs/import.md says for each kind of checkpoint what is served in place, copied and refused.

Examples:
  terabag import model.pt --like dlrm -o ./model
  terabag import model.pt --spec spec.json -o ./model
  terabag import ./checkpoint-4000 --like torchrec-dcn --dry-run
  terabag import model.safetensors.index.json --spec spec.json -o ./model --copy
  terabag import ./hugectr dense.safetensors --spec spec.json -o ./model
  terabag import model.pt --like dlrm --write-spec spec.json --dry-run`),
  )
  .action(async (paths: [string, ...string[]], options: ImportCommandOptions) => {
    if (options.output === undefined && options.dryRun !== true)
      throw new TerabagError('invalid_argument', 'either --output or --dry-run is needed', { field: '--output' });
    const signal = interruption();
    const files = new OpenFiles();
    try {
      const checkpoint = await openCheckpoints(files, paths);
      const { spec, columns, notes } = await modelOf(options, checkpoint);
      if (options.writeSpec !== undefined) await writeFileAtomic(options.writeSpec, `${JSON.stringify(spec, null, 2)}\n`);
      const { copy = false, dryRun = false } = options;
      const report = await withProgress('importing', 'bytes', (onProgress) =>
        importBundle(checkpoint, files, spec, options.output ?? '', { columns, copy, dryRun, signal, onProgress }),
      );
      if (options.json) console.log(JSON.stringify({ checkpoints: paths, output: options.output ?? null, dryRun, ...report, notes }));
      else print(report, notes, options);
    } finally {
      await files.close();
    }
  });

async function modelOf(options: ImportCommandOptions, checkpoint: Parameters<typeof specLike>[1]): Promise<ReturnType<typeof specLike>> {
  if (options.spec !== undefined) return { spec: await readImportSpec(options.spec), columns: new Map(), notes: [] };
  if (options.like !== undefined) return specLike(options.like, checkpoint, options);
  throw new TerabagError(
    'invalid_argument',
    `either --spec or --like is needed; the checkpoint has ${shownTensors([...checkpoint.tensors.keys()])}`,
    { field: '--spec' },
  );
}

function print(report: ImportReport, notes: readonly string[], { output, dryRun }: ImportCommandOptions): void {
  printTable(report.tables, [
    text('table', ({ table }) => table),
    numeric('rows', ({ rows }) => rows),
    numeric('dim', ({ dim }) => dim),
    text('format', ({ format }) => format),
    bytes('size', (table) => table.bytes),
    text('rows are', ({ how }) => how),
    ...(report.tables.some(({ keys }) => keys !== null) ? [text<(typeof report.tables)[number]>('keys', ({ keys }) => keys)] : []),
  ]);
  for (const { file, how, checksums } of report.placed) console.log(`${file}: ${how}; checksums: ${checksums}`);
  for (const { table, keys } of report.askedByRow)
    console.log(`table ${table} is asked for by row, since the spec names no keys: those of its rows are ${keys}`);
  for (const note of notes) console.log(note);
  const { unused, skipped } = report;
  if (unused.length > 0)
    console.log(
      `not used: ${shownTensors(unused.map(({ tensor, dtype, shape }) => `${tensor} (${dtype} ${shape.join('x') || 'scalar'})`))}`,
    );
  if (skipped.length > 0) console.log(`not read: ${shownTensors(skipped.map(({ tensor, why }) => `${tensor} (${why})`))}`);
  const total = report.tables.reduce((sum, table) => sum + table.bytes, 0);
  const what = `${report.tables.length} tables, ${formatBytes(total)}, and ${report.dense.length} dense weights of ${report.kind}`;
  console.log(dryRun ? `${what} would be imported` : `${output}: ${what}`);
}

const MOST_SHOWN = 20;
const shownTensors = (names: readonly string[]): string =>
  names.length <= MOST_SHOWN
    ? names.join(', ') || 'no tensors'
    : `${names.slice(0, MOST_SHOWN).join(', ')} and ${names.length - MOST_SHOWN} more`;
