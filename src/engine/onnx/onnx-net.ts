import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import { compiledPath } from '../../compiled-path.js';
import { TerabagError } from '../../errors.js';
import { type ResolvedModel, returnedDim } from '../../model/graph.js';
import type { ResolvedOnnx } from '../../model/onnx/resolve-onnx.js';
import type { DensePart, DenseWorkspace, Waiting } from '../dense-part.js';
import type { JobTimes } from '../job-times.js';
import { type FromWorker, type OnnxRun, type OnnxTask, sharedClockUs, type ToWorker } from './onnx-messages.js';
import { forget, RunFlag, waitAtExit } from './run-flag.js';

/** How a dense part that is an ONNX model is run. */
export interface OnnxOptions {
  /** Threads that one run is spread over, the worker's own among them; default as many as this process has cores. */
  readonly threads?: number;
  /** Runs at a time; default 1. Each has a worker thread of its own, with the model's weights in memory once more. */
  readonly workers?: number;
}

const MOST_THREADS = 1024;
const MOST_WORKERS = 64;
/** Runs that a worker has, so that it need not wait for the next; all others wait here, where those whose request is over are left out. */
const HANDED_OVER = 2;
const PACKAGE = 'onnxruntime-node';

/** Grown to the largest run. */
class OnnxWorkspace {
  #output = new Float32Array(new SharedArrayBuffer(0));

  output(length: number): Float32Array {
    if (this.#output.buffer.byteLength < length * 4)
      this.#output = new Float32Array(new SharedArrayBuffer(2 ** Math.ceil(Math.log2(length * 4))));
    return this.#output.subarray(0, length);
  }
}

/** A run that was asked for. */
interface Job {
  readonly run: OnnxRun;
  readonly output: Float32Array;
  readonly request: Waiting;
  readonly times: JobTimes | null;
  readonly askedUs: number;
  readonly resolve: () => void;
  readonly reject: (error: TerabagError) => void;
}

interface Runner {
  readonly worker: Worker;
  readonly jobs: Map<number, Job>;
}

/** The dense part as an ONNX model, run by onnxruntime-node on worker threads. */
export class OnnxNet implements DensePart {
  readonly sharesInputs = true;
  readonly #runners: readonly Runner[];
  #waiting: Job[] = [];
  #nextJob = 0;
  /** Why no run can succeed any more. */
  #broken: TerabagError | null = null;
  #closing: Promise<void> | null = null;

  private constructor(
    private readonly onnx: ResolvedOnnx,
    private readonly returnedDim: number,
    readonly lastStage: number,
    workers: readonly Worker[],
  ) {
    this.#runners = workers.map((worker) => ({ worker, jobs: new Map<number, Job>() }));
    for (const runner of this.#runners) {
      runner.worker.on('message', (message: FromWorker) => this.#onMessage(runner, message));
      runner.worker.on('error', (error) => this.#break(String(error)));
      runner.worker.on('exit', (code) => this.#break(`exit code ${code}`));
      // A request in flight has a timer; nothing else has to keep a process alive.
      runner.worker.unref();
    }
  }

  /** lastStage: the one that runs the model. */
  static async open(model: ResolvedModel, bytes: Uint8Array, lastStage: number, options: OnnxOptions = {}): Promise<OnnxNet> {
    const onnx = model.onnx as ResolvedOnnx;
    const threads = count('onnx.threads', options.threads ?? availableParallelism(), MOST_THREADS);
    const workers = count('onnx.workers', options.workers ?? 1, MOST_WORKERS);
    const numDense = model.dense.length;
    const sequences = [...model.bags.keys()].filter((bag) => model.bags[bag]?.maxLength !== undefined).map((bag) => numDense + bag);
    const task: Omit<OnnxTask, 'flag'> = {
      runtime: runtimeSpecifier(process.env['TERABAG_ONNXRUNTIME']),
      model: bytes,
      threads,
      dims: [...model.dense.map(({ dim }) => dim), ...model.bags.map(({ dim, maxLength = 1 }) => dim * maxLength)],
      numDense,
      sequences,
      inputs: onnx.inputs,
      lengths: onnx.lengths,
      outputs: onnx.outputs,
    };
    const opened = await Promise.allSettled(Array.from({ length: workers }, () => openWorker(task, onnx.file)));
    const running = opened.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
    const failed = opened.find((outcome) => outcome.status === 'rejected');
    if (failed === undefined) return new OnnxNet(onnx, returnedDim(model), lastStage, running);
    await Promise.all(running.map((worker) => worker.terminate()));
    throw TerabagError.from(failed.reason);
  }

  createWorkspace(): DenseWorkspace {
    return new OnnxWorkspace();
  }

  run(
    workspace: DenseWorkspace,
    stage: number,
    items: number,
    perItem: Uint8Array,
    dense: Float32Array,
    pooled: Float32Array | null,
    lengths: Uint32Array | null,
    output: Float32Array | null,
    times: JobTimes | null,
    request: Waiting,
  ): Promise<void> | undefined {
    if (stage < this.lastStage || pooled === null || output === null) return undefined;
    if (this.#broken !== null) throw this.#broken;
    if (times !== null) times.onThread = true;
    const shared = (workspace as OnnxWorkspace).output(items * this.returnedDim);
    const run = { job: this.#nextJob++, items, perItem, dense, pooled, lengths, output: shared };
    return new Promise((resolve, reject) => {
      this.#waiting.push({ run, output, request, times, askedUs: sharedClockUs(), resolve, reject });
      this.#handOver();
    });
  }

  /** Ends the worker threads, and with them the sessions' memory. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#broken ??= new TerabagError('closed', 'the dense part is closed');
    await Promise.all(this.#runners.map(({ worker }) => endWorker(worker)));
  }

  #handOver(): void {
    while (this.#waiting.length > 0) {
      const job = this.#waiting[0] as Job;
      const runner = this.#runners.reduce((least, each) => (each.jobs.size < least.jobs.size ? each : least));
      if (!job.request.over && runner.jobs.size >= HANDED_OVER) return;
      this.#waiting.shift();
      if (job.request.over) {
        job.resolve();
        continue;
      }
      runner.jobs.set(job.run.job, job);
      runner.worker.postMessage({ kind: 'run', run: job.run } satisfies ToWorker);
    }
  }

  #onMessage(runner: Runner, message: FromWorker): void {
    if (message.kind !== 'done' && message.kind !== 'failed') return;
    const job = runner.jobs.get(message.job);
    if (job === undefined) return;
    runner.jobs.delete(message.job);
    this.#handOver();
    if (message.kind === 'failed') {
      job.reject(runError(message.message, this.onnx.file));
      return;
    }
    if (job.times !== null) stamp(job.times, job.askedUs, message);
    if (!job.request.over) job.output.set(job.run.output);
    job.resolve();
  }

  /** A worker ends by itself only by a fault of its own. */
  #break(reason: string): void {
    if (this.#broken !== null) return;
    this.#broken = new TerabagError('internal', `the thread that runs ${this.onnx.file} ended; open the predictor again: ${reason}`);
    const jobs = [...this.#runners.flatMap((runner) => [...runner.jobs.values()]), ...this.#waiting];
    for (const { jobs: own } of this.#runners) own.clear();
    this.#waiting = [];
    for (const { reject } of jobs) reject(this.#broken);
  }
}

function count(field: string, value: number, most: number): number {
  if (Number.isInteger(value) && value >= 1 && value <= most) return value;
  throw new TerabagError('invalid_argument', `${field} has to be an integer, 1 to ${most}: ${value}`, { field });
}

/** The package, or that of the named directory. */
const runtimeSpecifier = (directory: string | undefined): string =>
  directory === undefined || directory === '' ? PACKAGE : pathToFileURL(join(directory, 'dist', 'index.js')).href;

/** Settles when the worker has its session. */
function openWorker(task: Omit<OnnxTask, 'flag'>, file: string): Promise<Worker> {
  const flag = new RunFlag();
  flag.begin();
  const workerData: OnnxTask = { ...task, flag: flag.memory };
  const worker = new Worker(compiledPath('engine/onnx/onnx-worker.js'), { workerData, execArgv: [], name: 'terabag-onnx' });
  waitAtExit(flag);
  worker.once('exit', () => forget(flag));
  return new Promise((resolve, reject) => {
    const ended = (reason: unknown): void =>
      reject(new TerabagError('internal', `thread for ${file} ended before it was ready: ${reason}`));
    worker.once('error', ended);
    worker.once('exit', ended);
    worker.once('message', (message: FromWorker) => {
      worker.removeListener('error', ended);
      worker.removeListener('exit', ended);
      if (message.kind === 'opened') {
        resolve(worker);
        return;
      }
      const error = message.kind === 'refused' ? refusal(message, file) : new TerabagError('internal', 'unknown message of a worker');
      worker.terminate().then(
        () => reject(error),
        () => reject(error),
      );
    });
  });
}

function endWorker(worker: Worker): Promise<void> {
  return new Promise((resolve) => {
    worker.once('exit', () => resolve());
    // It has ended before.
    if (worker.threadId === -1) resolve();
    worker.ref();
    worker.postMessage({ kind: 'close' } satisfies ToWorker);
  });
}

function refusal({ what, message }: Extract<FromWorker, { kind: 'refused' }>, file: string): TerabagError {
  if (what === 'model') return new TerabagError('bad_model', `onnxruntime does not run ${file}: ${message}`, { file });
  const details = { file, package: PACKAGE };
  if (what === 'missing')
    return new TerabagError(
      'unsupported',
      `the dense part of this model is ${file}, which needs the package ${PACKAGE}; install it beside terabag: npm install ${PACKAGE}`,
      details,
    );
  return new TerabagError('unsupported', `${PACKAGE}, which ${file} needs, does not load on this machine: ${message}`, details);
}

function runError(message: string, file: string): TerabagError {
  const shortage = /bad_alloc|allocat/i.test(message);
  return new TerabagError(shortage ? 'overloaded' : 'bad_model', `${file} does not run: ${message}`, { file });
}

/** As NativeDenseNet does; the CPU time of other threads is not told, so that the time of the run stands for it. */
function stamp({ times, timesAt }: JobTimes, askedUs: number, { startedUs, endedUs }: Extract<FromWorker, { kind: 'done' }>): void {
  times[timesAt] = Math.max(0, startedUs - askedUs);
  times[timesAt + 1] = endedUs - startedUs;
  times[timesAt + 2] = endedUs - startedUs;
}
