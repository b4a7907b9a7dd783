import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { TerabagError } from '../errors.js';
import { parseQuerySizes, QuerySizeSequence } from '../lab/generate/query-sizes.js';
import { RequestGenerator } from '../lab/generate/request-generator.js';
import { requestShape, requestShapeOfSpec } from '../lab/generate/request-shape.js';
import { parseReuse } from '../lab/generate/row-reuse.js';
import { isShapeName, shapeByName } from '../lab/generate/shape-by-name.js';
import { SeededNumbers } from '../lab/generate/synthetic-values.js';
import { writeRequests } from '../lab/requests/request-file.js';
import { readModelSpec } from '../model/bundle.js';
import type { PredictRequest } from '../predictor/predictor.js';
import { refuseUnwritable } from '../tables/atomic.js';
import { further } from './help.js';
import { interruption } from './interruption.js';
import { positiveInteger, positiveShare } from './options.js';
import { type OnProgress, withProgress } from './progress.js';

interface RequestsOptions {
  readonly count: number;
  readonly items: string;
  readonly reuse?: string;
  readonly scale?: number;
  readonly seed: number;
  readonly output: string;
  readonly json?: boolean;
}

export const requestsCommand = new Command('requests')
  .description('make a file of requests to measure with, for a bundle or for a shape that synth knows')
  .argument('<model>', 'directory of the model, or a shape: drm1, rmc2, ...')
  .requiredOption('-o, --output <file>', 'requests.jsonl, or requests.safetensors (all in one, smaller and faster to read)')
  .option('-n, --count <n>', 'requests', positiveInteger, 1000)
  .option('--items <sizes>', 'candidates per request: N, lognormal:MEDIAN,SIGMA[,MAX], or file:PATH with a size a line', '64')
  .option('--reuse <how>', 'how ids recur: uniform, zipf:EXPONENT, trace-2021, trace-2022 (default: of a shape its own, else trace-2021)')
  .option('--scale <share>', 'of a shape: the scale that its bundle was made with (default: 1)', positiveShare)
  .option('--seed <n>', 'the same seed gives the same requests', positiveInteger, 1)
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    further(`
trace-2021 and trace-2022 recur as in published accesses of production models in training (docs/workloads.md); they are not serving requests.
In a bundle, bags say their side and pooling factor; one that says neither is an item's, with one id.

Examples:
  terabag requests ./model -n 500 --items 64 -o requests.jsonl
  terabag requests drm1 --scale 0.02 --items lognormal:64,1,512 -o requests.safetensors
  terabag requests ./model --items file:sizes.txt --reuse zipf:0.9 --seed 7 -o requests.safetensors`),
  )
  .action(async (model: string, options: RequestsOptions, command: Command) => {
    if (options.scale !== undefined && !isShapeName(model)) command.error(`error: --scale is of shapes; the bundle has its own: ${model}`);
    if (isShapeName(model) && options.scale === undefined && existsSync(join(model, 'model.json')))
      command.error(`error: ${model} is a shape, and a bundle here: ./${model} for the bundle, --scale 1 for the shape`);
    const { count, seed, output, json } = options;
    await refuseUnwritable('--output', output);
    const interrupted = interruption();
    const shape = isShapeName(model)
      ? requestShape(shapeByName(model, options.scale ?? 1))
      : requestShapeOfSpec(await readModelSpec(model));
    const sizes = new QuerySizeSequence(await parseQuerySizes(options.items), new SeededNumbers(seed));
    const generator = new RequestGenerator(shape, seed, options.reuse === undefined ? {} : { reuse: parseReuse(options.reuse) });
    const made = { requests: 0, items: 0, ids: 0 };
    async function* generate(onProgress: OnProgress): AsyncGenerator<PredictRequest> {
      for (; made.requests < count; onProgress(++made.requests, count)) {
        // A turn of the event loop, in which signals are seen.
        await new Promise((resolve) => setImmediate(resolve));
        if (interrupted.aborted) throw new TerabagError('aborted', `making requests was interrupted: ${output}`, { path: output });
        const items = sizes.next();
        made.items += items;
        const request = generator.next(items);
        made.ids += countIds(request);
        yield request;
      }
    }
    await withProgress('making requests', 'requests', (onProgress) => writeRequests(output, generate(onProgress)));
    if (json) console.log(JSON.stringify({ ...made, output, seed, bags: shape.bags.length }));
    else console.log(`${output}: ${made.requests} requests, ${made.items} items, ${made.ids} ids in ${shape.bags.length} bags each`);
  });

const countIds = ({ sparse }: PredictRequest): number => Object.values(sparse).reduce((sum, { indices }) => sum + indices.length, 0);
