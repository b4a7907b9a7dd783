import { execFile } from 'node:child_process';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { compiledPath } from '../src/compiled-path.js';
import { type ModelShape, mapTables } from '../src/lab/generate/model-shape.js';
import { dienShape, dinShape, ncfShape, wideAndDeepShape } from '../src/lab/generate/open-shapes.js';
import { RequestGenerator } from '../src/lab/generate/request-generator.js';
import { requestShape } from '../src/lab/generate/request-shape.js';
import { writeSyntheticBundle } from '../src/lab/generate/synthetic-bundle.js';
import type { Predictor, PredictRequest } from '../src/predictor/predictor.js';
import { type TensorToWrite, writeSafetensors } from '../src/tables/safetensors.js';
import { startOnnxOfBundle } from './peers/onnx.js';
import { python, startPeer } from './peers/process.js';
import { type Absent, type Contender, type Line, measure, nanosecondsPerCall, type Suite, type SuiteOptions } from './suite.js';

const SHAPES: readonly ModelShape[] = [ncfShape(), wideAndDeepShape(), dinShape(), dienShape()];
const BATCHES = [1, 64];
/** Of a table: peers hold copies, and none of them fits a cache. */
const [MAX_ROWS, QUICK_ROWS] = [200_000, 2000];
const TURNS = 16;

export const modelsSuite: Suite = {
  name: 'models',
  description: 'NCF, Wide & Deep, DIN and DIEN in one process on one core, through predict(); time per batch',
  async *run(options) {
    for (const shape of SHAPES) {
      const batches = BATCHES.filter((batch) => options.wanted.test(`${shape.name}-b${batch}`));
      if (batches.length > 0) yield* runModel(shape, batches, options);
    }
  },
};

async function* runModel(given: ModelShape, batches: readonly number[], options: SuiteOptions): AsyncGenerator<Line> {
  const most = options.quick ? QUICK_ROWS : MAX_ROWS;
  const shape = mapTables(given, (table) => ({ ...table, rows: Math.min(table.rows, most) }));
  const bundle = join(options.dir, shape.name);
  await writeSyntheticBundle(bundle, shape);
  // Peers have their tables on huge pages; files that were just written lie on small ones in part.
  await promisify(execFile)(process.execPath, [compiledPath('cli/main.js'), 'warm', bundle]);
  for (const batch of batches) yield* runCase(bundle, shape, batch, options);
  await rm(bundle, { recursive: true });
}

async function* runCase(bundle: string, shape: ModelShape, batch: number, options: SuiteOptions): AsyncGenerator<Line> {
  const name = `${shape.name}-b${batch}`;
  const generator = new RequestGenerator(requestShape(shape), batch);
  const requests = Array.from({ length: TURNS }, () => generator.next(batch));
  const predictor = await open(bundle);
  const contenders: (Contender | Absent)[] = [ours(predictor, requests)];
  if (options.peers) {
    const task = { bundle, requests: join(options.dir, `${name}.safetensors`), batch };
    await writeRequests(task.requests, requests, predictor);
    contenders.push(await startPeer('torch', python('torch_model.py', 'torch'), task));
    contenders.push(await startOnnxOfBundle({ ...task, path: join(options.dir, `${name}.onnx`) }));
  }
  const described = { suite: 'models', name, metric: 'time per batch', unit: 'us', roundMs: options.quick ? 50 : 400 };
  yield* await measure({ ...described, params: { batch }, fromNs: (ns) => ns / 1000 }, contenders, options.rounds);
}

/** The compiled package, as applications have it. */
async function open(bundle: string): Promise<Predictor> {
  const { openLocal } = (await import(compiledPath('index.js'))) as typeof import('../src/index.js');
  return openLocal(bundle, { verify: 'size', deadlineMs: 10_000 });
}

function ours(predictor: Predictor, requests: readonly PredictRequest[]): Contender {
  let turn = 0;
  const run = (): Promise<unknown> => predictor.predict(requests[turn++ % TURNS] as PredictRequest);
  return { peer: null, round: (ms) => nanosecondsPerCall(run, ms), close: () => predictor.close() };
}

/** Requests and our scores for peers, as tensors TURN.INPUT and TURN.scores: bags of one layer have as many ids each, and become [bags, ids]. */
async function writeRequests(path: string, requests: readonly PredictRequest[], predictor: Predictor): Promise<void> {
  const tensors: TensorToWrite[] = [];
  for (const [turn, request] of requests.entries()) {
    const { scores, items, scoreDim } = await predictor.predict(request);
    const floats = (name: string, values: Float32Array, dim: number): TensorToWrite => {
      const data = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
      return { name: `${turn}.${name}`, dtype: 'F32', shape: [values.length / dim, dim], data };
    };
    for (const [name, values] of Object.entries(request.dense))
      tensors.push(floats(name, Float32Array.from(values), values.length / items));
    for (const [name, { indices, offsets }] of Object.entries(request.sparse)) {
      const ids = BigInt64Array.from(indices as Int32Array, BigInt);
      const shape = [offsets.length - 1, ids.length / (offsets.length - 1)];
      tensors.push({ name: `${turn}.${name}`, dtype: 'I64', shape, data: new Uint8Array(ids.buffer) });
    }
    tensors.push(floats('scores', scores, scoreDim));
  }
  await writeSafetensors(path, tensors);
}
