import { parentPort, workerData } from 'node:worker_threads';
import { fillLengths, fillRows, lengthsOf, placeColumns, rowsOf } from './onnx-inputs.js';
import {
  type FromWorker,
  type OnnxInput,
  type OnnxLengths,
  type OnnxOutput,
  type OnnxRun,
  type OnnxTask,
  sharedClockUs,
  type ToWorker,
} from './onnx-messages.js';
import { loadOnnxRuntime, type OnnxRuntime, type OnnxSession, type OnnxTensor, sessionOptions } from './onnx-runtime.js';
import { RunFlag } from './run-flag.js';

/**
 * The program of a worker thread that runs one ONNX model: onnxruntime-node computes on the thread that calls it, which must not be the event loop of an
 * application. One run at a time, in the order of their messages.
 */
class OnnxWorker {
  /** By input, grown to the largest run: onnxruntime-node does not read shared memory. */
  readonly #buffers: ArrayBuffer[] = [];

  constructor(
    private readonly task: OnnxTask,
    private readonly runtime: OnnxRuntime,
    private readonly session: OnnxSession,
  ) {}

  async run(run: OnnxRun): Promise<void> {
    const { inputs, lengths, outputs, dims } = this.task;
    const rows = rowsOf(this.task, run);
    const feeds: Record<string, OnnxTensor> = {};
    for (const [at, { name, value, shape, oneRow }] of inputs.entries()) {
      const [dim, count] = [dims[value] as number, oneRow ? 1 : run.items];
      const tensor = new Float32Array(this.#buffer(at, count * dim * 4), 0, count * dim);
      fillRows(tensor, rows[value] as (typeof rows)[number], count);
      feeds[name] = new this.runtime.Tensor('float32', tensor, [count, ...shape]);
    }
    const found = lengthsOf(this.task, run);
    for (const [at, { name, value, oneRow }] of lengths.entries()) {
      const count = oneRow ? 1 : run.items;
      const tensor = new BigInt64Array(this.#buffer(inputs.length + at, count * 8), 0, count);
      fillLengths(tensor, found.get(value) as Uint32Array);
      feeds[name] = new this.runtime.Tensor('int64', tensor, [count]);
    }
    const given = await this.session.run(
      feeds,
      outputs.map(({ name }) => name),
    );
    const columns = outputs.map((output) => ({ dim: output.dim, data: checkOutput(given[output.name], output, run.items).data }));
    placeColumns(columns, run.items, run.output);
  }

  close(): Promise<void> {
    return this.session.release();
  }

  #buffer(at: number, bytes: number): ArrayBuffer {
    const held = this.#buffers[at];
    const buffer = held !== undefined && held.byteLength >= bytes ? held : new ArrayBuffer(bytes);
    this.#buffers[at] = buffer;
    return buffer;
  }
}

function checkOutput(tensor: OnnxTensor | undefined, { name, dim }: OnnxOutput, items: number): OnnxTensor {
  const dims = tensor?.dims ?? [];
  const fits = dims[0] === items && (dims.length === 2 ? dims[1] === dim : dims.length === 1 && dim === 1);
  if (tensor !== undefined && tensor.type === 'float32' && fits) return tensor;
  throw new Error(`output ${name} has to be float32 [${items}, ${dim}]: ${tensor?.type ?? 'nothing'} [${dims.join(', ')}]`);
}

const sameNames = (found: readonly string[], expected: readonly (OnnxInput | OnnxLengths | OnnxOutput)[]): boolean =>
  expected.every(({ name }) => found.includes(name));

async function openWorker(task: OnnxTask): Promise<OnnxWorker | Extract<FromWorker, { kind: 'refused' }>> {
  const refused = (what: 'missing' | 'runtime' | 'model', error: unknown) =>
    ({ kind: 'refused', what, message: error instanceof Error ? error.message : String(error) }) as const;
  let runtime: OnnxRuntime;
  try {
    runtime = await loadOnnxRuntime(task.runtime);
  } catch (error) {
    return refused((error as NodeJS.ErrnoException).code === 'ERR_MODULE_NOT_FOUND' ? 'missing' : 'runtime', error);
  }
  try {
    const session = await runtime.InferenceSession.create(task.model, sessionOptions(task.threads));
    const { inputNames, outputNames } = session;
    if (!sameNames(inputNames, [...task.inputs, ...task.lengths]) || !sameNames(outputNames, task.outputs))
      return refused('model', `onnxruntime finds other inputs and outputs: ${inputNames.join(', ')}; ${outputNames.join(', ')}`);
    return new OnnxWorker(task, runtime, session);
  } catch (error) {
    return refused('model', error);
  }
}

async function serve(port: NonNullable<typeof parentPort>): Promise<void> {
  const tell = (message: FromWorker): void => port.postMessage(message);
  const task = workerData as OnnxTask;
  const flag = new RunFlag(task.flag);
  const worker = await openWorker(task);
  flag.leave();
  if (!(worker instanceof OnnxWorker)) {
    tell(worker);
    return;
  }
  let last = Promise.resolve();
  const answer = async (run: OnnxRun): Promise<void> => {
    if (!flag.enter()) return;
    const startedUs = sharedClockUs();
    try {
      await worker.run(run);
      const endedUs = sharedClockUs();
      flag.leave();
      tell({ kind: 'done', job: run.job, startedUs, endedUs });
    } catch (error) {
      flag.leave();
      tell({ kind: 'failed', job: run.job, message: error instanceof Error ? error.message : String(error) });
    }
  };
  port.on('message', (message: ToWorker) => {
    last = last.then(async () => {
      if (message.kind === 'run') return answer(message.run);
      if (flag.enter()) {
        await worker.close();
        flag.leave();
      }
      port.close();
    });
  });
  tell({ kind: 'opened' });
}

if (parentPort !== null) void serve(parentPort);
