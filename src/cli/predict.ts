import { Command } from 'commander';
import type { Precision } from '../engine/native.js';
import type { TerabagError } from '../errors.js';
import { holdsManyRequests, locatedError, type ReadRequest, readRequests, readSafetensorsRequest } from '../lab/requests/request-file.js';
import { chromeTrace } from '../observe/chrome-trace.js';
import { Tracer } from '../observe/tracer.js';
import { firstNotFinite, predictionToJson, refuseNotFinite } from '../predictor/prediction-json.js';
import type { Prediction, PredictOptions, Predictor, PredictRequest } from '../predictor/predictor.js';
import { refuseUnwritable, writeAtomic, writeFileAtomic } from '../tables/atomic.js';
import { writeSafetensors } from '../tables/safetensors.js';
import { further } from './help.js';
import { openPredictor, type PredictorCommandOptions, refuseWithoutPlan } from './open-predictor.js';
import {
  positiveDurationMs,
  positiveInteger,
  precisionOption,
  quantityOption,
  renamedOption,
  residencyOption,
  rpcOption,
  shardFailureOption,
  verifyOption,
} from './options.js';
import { refuseSameFile } from './output-files.js';
import { type OnProgress, withProgress } from './progress.js';
import { mainKeyOption, shardKeyOption } from './security-options.js';
import { stdoutError } from './stdout.js';
import { warn } from './warn.js';

/** With spans of 128 bytes, 8 MiB. */
const TRACED_REQUESTS = 256;
const TRACED_SPANS = 256;

interface PredictCommandOptions extends PredictorCommandOptions {
  readonly output?: string;
  readonly deadline: number;
  readonly concurrency: number;
  readonly compare?: boolean;
  readonly trace?: string;
  readonly json?: boolean;
}

export const predictCommand = new Command('predict')
  .description('score the requests of a file: JSONL (one request a line; - is stdin) or safetensors')
  .argument('<requests>', 'requests.jsonl, requests.safetensors, or -')
  .requiredOption('--bundle <dir>', 'directory of the model, or, with --plan, what it was published to')
  .option('--plan <file>', 'ask the running shards of this plan; without it, all tables are opened in this process')
  .addOption(rpcOption())
  .addOption(mainKeyOption())
  .addOption(shardKeyOption())
  .option('--batch-items <n>', 'with --rpc paper: items per batch (default: all of a request)', positiveInteger)
  .option('--dedup', 'with --plan: send and pool bags that are alike within a request once')
  .addOption(shardFailureOption())
  .option('-o, --output <file>', 'where scores go (default: stdout, but for a safetensors file of one request)')
  .addOption(quantityOption('--deadline <time>', 'of each request', positiveDurationMs, '10s'))
  .addOption(renamedOption('--deadline-ms <ms>', (value) => `--deadline ${value}ms`))
  .option('--concurrency <n>', 'requests in flight', positiveInteger, 8)
  .addOption(verifyOption())
  .addOption(residencyOption())
  .addOption(precisionOption())
  .option('--compare', 'score everything in fp32 too, and say how far the scores are apart')
  .option('--trace <file>', `write what the stages of the last ${TRACED_REQUESTS} requests took, for ui.perfetto.dev or chrome://tracing`)
  .option('--json', 'print the summary as JSON (needs --output)')
  .addHelpText(
    'after',
    further(`
A line in gives a line out, in order: {"scores": [...]} or {"error": {"code", "message", "line"}}, whose message begins with "line N:", or with
"request N:" of a safetensors file. A model with further outputs gives them beside the scores: "outputs": {NAME: [...]}. With --on-shard-failure
default-embedding, an answer without a shard has "degraded": true and "missingTables": [...]. Exits with 1 when a request failed. Scores that are not finite, which JSON has no numbers for, are an error
of their request (unsupported), with the item.

Lines end with \\n or \\r\\n. A request, in which ids of 2^53 and beyond are strings of their decimal digits ("9007199254740993"):
  {"dense": {"dense": [0.5, 1]},
   "sparse": {"clicks": {"indices": [4, 8], "offsets": [0, 2],
                         "weights": [1, 0.5]}}}

Safetensors of many requests, as terabag requests and recordings have them (docs/workloads.md): a line out for each.

Safetensors of one: tensors items (may be left out), dense.NAME, sparse.BAG.indices, sparse.BAG.offsets, sparse.BAG.weights in; "scores" [items, scores per item]
out, and outputs.NAME likewise of further outputs.

Examples:
  terabag predict requests.jsonl --bundle ./model > scores.jsonl
  terabag predict requests.jsonl --bundle ./model --plan plan.json -o scores.jsonl
  terabag predict requests.jsonl --bundle ./model --plan plan.json --rpc paper --batch-items 64 -o scores.jsonl
  terabag predict requests.jsonl --bundle ./model --plan plan.json --dedup -o scores.jsonl
  terabag predict requests.jsonl --bundle ./model --precision bf16 --compare -o scores.jsonl
  terabag predict requests.jsonl --bundle ./model --plan plan.json -o scores.jsonl --trace trace.json
  terabag predict batch.safetensors --bundle ./model -o scores.safetensors`),
  )
  .action(async (path: string, options: PredictCommandOptions, command: Command) => {
    await refuseSameFile(command, { '--output': options.output, '--trace': options.trace }, { '<requests>': path, '--plan': options.plan });
    const tensors = path.endsWith('.safetensors') && !(await holdsManyRequests(path));
    if (tensors && options.output === undefined) command.error('error: a safetensors request needs --output for the scores');
    refuseWithoutPlan(options, command);
    if (options.json && options.output === undefined) command.error('error: --json prints a summary, so that scores need --output');
    if (options.output !== undefined) await refuseUnwritable('--output', options.output);
    if (options.trace !== undefined) await refuseUnwritable('--trace', options.trace);
    const startedAt = performance.now();
    const tracer = options.trace === undefined ? null : new Tracer({ capacity: TRACED_REQUESTS, spans: TRACED_SPANS });
    const predictor = await openPredictor(options, tracer);
    const comparison = options.compare ? new Comparison(await openPredictor({ ...options, precision: 'fp32' }, null)) : null;
    const scorer = { predictor, comparison };
    try {
      const counts = tensors ? await predictTensors(scorer, path, options) : await predictLines(scorer, path, options);
      if (tracer !== null && options.trace !== undefined) await writeTrace(tracer, options.trace);
      const seconds = (performance.now() - startedAt) / 1000;
      if (options.json)
        console.log(JSON.stringify({ ...counts, seconds, output: options.output, ...(comparison && { scoreError: comparison.errors }) }));
      else if (options.output !== undefined)
        console.log(`${counts.scored} requests scored, ${counts.failed} failed, ${seconds.toFixed(1)} s: ${options.output}`);
      if (comparison !== null && !options.json)
        for (const line of comparison.summary(options.precision)) process.stderr.write(`terabag: ${line}\n`);
      if (counts.failed > 0) {
        process.stderr.write(`terabag: ${counts.failed} of ${counts.scored + counts.failed} requests failed; their lines say why\n`);
        process.exitCode = 1;
      }
    } finally {
      await Promise.all([predictor.close(), comparison?.close()]);
    }
  });

async function writeTrace(tracer: Tracer, path: string): Promise<void> {
  // Collections are told of in a later turn of the event loop.
  await new Promise((resolve) => setImmediate(resolve));
  const requests = tracer.requests();
  await writeFileAtomic(path, JSON.stringify(chromeTrace(requests)));
  const cut = requests.filter(({ complete }) => !complete).length;
  if (cut > 0) warn(`the trace lacks spans of ${cut} requests, which had more than ${TRACED_SPANS}`);
}

/** Most requests that a message names. */
const MOST_NAMED = 10;

/** Answers with one predictor, and keeps how far its scores are from those of another. */
class Comparison {
  #scores = 0;
  #sum = 0;
  #max = 0;
  readonly #incomparable: number[] = [];

  constructor(private readonly reference: Predictor) {}

  /** Scores that are not finite in one of the two are at no distance: their requests are named instead, by their lines. */
  get errors(): { readonly scores: number; readonly max: number; readonly mean: number; readonly incomparable: readonly number[] } {
    const mean = this.#scores === 0 ? 0 : this.#sum / this.#scores;
    return { scores: this.#scores, max: this.#max, mean, incomparable: this.#incomparable.toSorted((a, b) => a - b) };
  }

  async predict(predictor: Predictor, request: PredictRequest, line: number, options: PredictOptions): Promise<Prediction> {
    const [answer, expected] = await Promise.all([predictor.predict(request, options), this.reference.predict(request, options)]);
    if (firstNotFinite(answer) !== null || firstNotFinite(expected) !== null) {
      this.#incomparable.push(line);
      return answer;
    }
    answer.scores.forEach((score, at) => {
      const error = Math.abs(score - (expected.scores[at] as number));
      this.#sum += error;
      this.#max = Math.max(this.#max, error);
    });
    this.#scores += answer.scores.length;
    return answer;
  }

  close(): Promise<void> {
    return this.reference.close();
  }

  /** For people. */
  summary(precision: Precision): string[] {
    const { scores, max, mean, incomparable } = this.errors;
    const compared =
      scores === 0
        ? `no scores in ${precision} could be compared with fp32`
        : `scores in ${precision} against fp32: largest difference ${max.toPrecision(3)}, mean ${mean.toPrecision(3)}, over ${scores} scores`;
    const more = incomparable.length > MOST_NAMED ? `, and ${incomparable.length - MOST_NAMED} more` : '';
    const named = incomparable.slice(0, MOST_NAMED).join(', ') + more;
    return incomparable.length === 0 ? [compared] : [compared, `not compared, scores are not finite: requests of lines ${named}`];
  }
}

/** A predictor, and what its scores are compared with. */
interface Scorer {
  readonly predictor: Predictor;
  readonly comparison: Comparison | null;
}

async function score({ predictor, comparison }: Scorer, request: PredictRequest, line: number, deadlineMs: number): Promise<Prediction> {
  const options = { deadlineMs };
  const prediction = await (comparison?.predict(predictor, request, line, options) ?? predictor.predict(request, options));
  refuseNotFinite(prediction);
  return prediction;
}

interface Counts {
  scored: number;
  failed: number;
}

async function predictTensors(scorer: Scorer, path: string, { output = '', deadline }: PredictCommandOptions): Promise<Counts> {
  const { scores, items, scoreDim, outputs = {} } = await score(scorer, await readSafetensorsRequest(path), 1, deadline);
  const tensor = (name: string, dim: number, { buffer, byteOffset, byteLength }: Float32Array) => ({
    ...{ name, dtype: 'F32', shape: [items, dim], data: new Uint8Array(buffer, byteOffset, byteLength) },
  });
  await writeSafetensors(output, [
    tensor('scores', scoreDim, scores),
    ...Object.entries(outputs).map(([name, values]) => tensor(`outputs.${name}`, items === 0 ? 0 : values.length / items, values)),
  ]);
  return { scored: 1, failed: 0 };
}

type Put = (line: string) => Promise<unknown>;

/** Waits until stdout has taken the line: what it cannot take ends the command, and not a later one. */
function putStdout(line: string): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(line, (error) => (error ? reject(stdoutError(error)) : resolve()));
  });
}

async function predictLines(scorer: Scorer, path: string, options: PredictCommandOptions): Promise<Counts> {
  const { output } = options;
  if (output === undefined) return answerLines(scorer, path, options, putStdout, () => undefined);
  return withProgress('scoring', 'bytes', async (onProgress) => {
    let counts: Counts = { scored: 0, failed: 0 };
    await writeAtomic(output, async (file) => {
      counts = await answerLines(scorer, path, options, (line) => file.appendFile(line), onProgress);
    });
    return counts;
  });
}

/** Keeps a number of requests in flight and puts their answers in the order of the lines. */
async function answerLines(
  scorer: Scorer,
  path: string,
  { deadline, concurrency }: PredictCommandOptions,
  put: Put,
  onProgress: OnProgress,
): Promise<Counts> {
  const counts: Counts = { scored: 0, failed: 0 };
  const failed = ({ code, message, details }: TerabagError, line: number): string => {
    counts.failed++;
    return `${JSON.stringify({ error: { code, message, line, ...details } })}\n`;
  };
  const answer = async (read: ReadRequest): Promise<string> => {
    if ('error' in read) return failed(read.error, read.line);
    try {
      const prediction = await score(scorer, read.request, read.line, deadline);
      counts.scored++;
      return `${JSON.stringify(predictionToJson(prediction))}\n`;
    } catch (error) {
      return failed(locatedError(path, read.line, error), read.line);
    }
  };
  const inFlight: Promise<string>[] = [];
  for await (const read of readRequests(path, onProgress)) {
    inFlight.push(answer(read));
    if (inFlight.length >= concurrency) await put(await (inFlight.shift() as Promise<string>));
  }
  for (const answered of inFlight) await put(await answered);
  return counts;
}
