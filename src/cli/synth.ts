import { Argument, Command, Option } from 'commander';
import { shapeBytes } from '../lab/generate/model-shape.js';
import { SHAPE_NAMES, shapeByName } from '../lab/generate/shape-by-name.js';
import { writeSyntheticBundle } from '../lab/generate/synthetic-bundle.js';
import { formatBytes } from '../lab/report/numbers.js';
import { PLAIN_FORMATS, type PlainFormat } from '../model/formats.js';
import { tableBytes } from '../plan/placement/bytes.js';
import { checkRoom, fillDirectory, refuseUsed } from '../tables/output-directory.js';
import { further } from './help.js';
import { interruption } from './interruption.js';
import { positiveInteger, positiveShare } from './options.js';
import { withProgress } from './progress.js';

interface SynthOptions {
  readonly scale: number;
  readonly output: string;
  readonly seed?: number;
  readonly format: PlainFormat;
  readonly json?: boolean;
}

export const synthCommand = new Command('synth')
  .description('make a bundle of the shape of a known model, with random values')
  .addArgument(new Argument('<shape>', 'which model').choices(SHAPE_NAMES))
  .requiredOption('-o, --output <dir>', 'directory of the new model; it must be empty or not there')
  .option('--scale <share>', 'of the rows; tables, dims and pooling stay', positiveShare, 1)
  .option('--seed <n>', 'the same seed gives the same bytes (default: one per shape)', positiveInteger)
  .addOption(new Option('--format <format>', 'row format').choices(PLAIN_FORMATS).default('fp32'))
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    further(`
drm1, drm2, drm3 are those of Lui et al. (ISPASS 2021): 257 tables, 194 GB; 133 tables, 138 GB; 39 tables, 200 GB. rmc1, rmc2, rmc3 are those of
Gupta et al. (HPCA 2020); ncf, wide-and-deep, multi-task-wide-and-deep, din and dien have the sizes of DeepRecSys, mlperf-dcnv2 is MLPerf's. docs/workloads.md says what of them is published and what is assumed. Sizes above are in fp32.

Examples:
  terabag synth drm1 --scale 0.02 -o ./drm1
  terabag synth rmc2 --scale 10% --format bf16 -o ./rmc2
  terabag synth mlperf-dcnv2 --scale 0.01 --seed 3 -o ./dcn --json`),
  )
  .action(async (name: string, { scale, output, seed, format, json }: SynthOptions) => {
    const interrupted = interruption();
    const shape = shapeByName(name, scale, { format, ...(seed !== undefined && { seed }) });
    await refuseUsed(output);
    await checkRoom(output, shapeBytes(shape));
    const startedAt = performance.now();
    const spec = await withProgress('making the model', 'bytes', (onProgress) =>
      fillDirectory(output, () => writeSyntheticBundle(output, shape, onProgress, interrupted)),
    );
    const seconds = (performance.now() - startedAt) / 1000;
    const bytes = spec.tables.reduce((sum, table) => sum + tableBytes(table), 0);
    const bytesAtScale1 = shapeBytes(shapeByName(name, 1, { format }));
    const made = { shape: name, output, scale, scaleReached: bytes / bytesAtScale1, seed: shape.seed, tables: spec.tables.length, bytes };
    if (json) console.log(JSON.stringify({ ...made, nets: spec.nets.length, format, seconds, bytesPerSecond: bytes / seconds }));
    else
      console.log(
        `${output}: ${shape.description}\nat scale ${scale}: ${made.tables} tables, ${spec.nets.length} ${spec.nets.length === 1 ? 'net' : 'nets'}, ` +
          `${formatBytes(bytes)} (${((bytes / bytesAtScale1) * 100).toPrecision(3)} % of scale 1) in ${seconds.toFixed(1)} s`,
      );
  });
