import { execFile } from 'node:child_process';
import { link, mkdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { compiledPath } from '../src/compiled-path.js';
import { type ModelShape, type TableShape, tableName, tablesOf } from '../src/lab/generate/model-shape.js';
import { RequestGenerator } from '../src/lab/generate/request-generator.js';
import { requestShape } from '../src/lab/generate/request-shape.js';
import { writeSyntheticBundle } from '../src/lab/generate/synthetic-bundle.js';
import { finishBundle } from '../src/model/bundle.js';
import type { ModelSpec } from '../src/model/spec.js';
import type { PredictRequest } from '../src/predictor/predictor.js';
import { startOnnx } from './peers/onnx.js';
import { python, startPeer } from './peers/process.js';
import { type Absent, type Contender, type Line, measure, nanosecondsPerCall, type Suite, type SuiteOptions } from './suite.js';

const BATCHES = [1, 8, 128, 2048];
const TABLES = 26;
const DIM = 64;
const BOTTOM = [13, 512, 256, DIM];
const TOP = [DIM + (27 * 26) / 2, 512, 512, 256, 1];
const TURNS = 16;

export const predictSuite: Suite = {
  name: 'predict',
  description: 'a whole DLRM in one process on one core, one id a bag, through predict(); time per batch',
  async *run(options) {
    const rows = options.quick ? 2000 : 400_000;
    const bundle = join(options.dir, 'model');
    const batches = BATCHES.filter((batch) => options.wanted.test(`dlrm26-b${batch}`));
    if (batches.length === 0) return;
    const shape = dlrmShape(rows);
    const spec = await writeSyntheticBundle(bundle, shape);
    // Peers have their tables on huge pages; files that were just written lie on small ones in part.
    await promisify(execFile)(process.execPath, [compiledPath('cli/main.js'), 'warm', bundle]);
    await linkWithPolicy(bundle, spec);
    for (const batch of batches) yield* runCase(bundle, shape, batch, options);
    for (const written of [bundle, passingOf(bundle)]) await rm(written, { recursive: true });
  },
};

const passingOf = (bundle: string): string => `${bundle}-unseen`;

/** The same bundle, where ids that its tables do not have are zeros: requests have none. */
async function linkWithPolicy(bundle: string, spec: ModelSpec): Promise<void> {
  const passing = passingOf(bundle);
  for (const file of Object.keys(spec.files)) {
    await mkdir(dirname(join(passing, file)), { recursive: true });
    await link(join(bundle, file), join(passing, file));
  }
  await finishBundle(passing, { ...spec, tables: spec.tables.map((table) => ({ ...table, unseen: { policy: 'zero' } })) });
}

/** 26 tables of so many rows. */
export const dlrmShape = (rows: number): ModelShape => ({
  name: 'dlrm26',
  description: '26 tables of dim 64, one id a bag',
  seed: 26,
  denseDim: 13,
  nets: [
    {
      name: 'dlrm',
      bottomMlp: BOTTOM.slice(1),
      interaction: { type: 'dot' },
      topMlp: TOP.slice(1),
      tables: Array.from({ length: TABLES }, (_, table) => tableShape(tableName(table), rows)),
    },
  ],
});

const tableShape = (name: string, rows: number): TableShape => ({
  ...{ name, rows, dim: DIM, format: 'fp32', side: 'item', pooling: 'sum', weighted: false },
  ...{ poolingFactor: 1, bagSizes: 'fixed', reuse: { type: 'zipf', exponent: 0 } },
});

async function* runCase(bundle: string, shape: ModelShape, batch: number, options: SuiteOptions): AsyncGenerator<Line> {
  const rows = tablesOf(shape)[0]?.rows ?? 0;
  const contenders: (Contender | Absent)[] = [
    await ours(bundle, shape, batch),
    { ...(await ours(passingOf(bundle), shape, batch)), peer: 'unseen-policy' },
  ];
  if (options.peers) {
    const task = { tables: TABLES, rows, dim: DIM, bottom: BOTTOM, top: TOP, batch };
    contenders.push(await startPeer('torch', python('torch_dlrm.py', 'torch'), task));
    const ids = tablesOf(shape).map((_, t) => ({ name: `ids${t}`, type: 'int64' as const, shape: [batch], rows }));
    const path = join(options.dir, 'dlrm.onnx');
    contenders.push(await startOnnx({ what: 'dlrm', path, ...task }, [{ name: 'dense', type: 'float32', shape: [batch, 13] }, ...ids]));
  }
  const params = { batch, tables: TABLES, rows, dim: DIM };
  const described = {
    suite: 'predict',
    name: `dlrm26-b${batch}`,
    params,
    metric: 'time per batch',
    unit: 'us',
    roundMs: options.quick ? 50 : 400,
  };
  yield* await measure({ ...described, fromNs: (ns) => ns / 1000 }, contenders, options.rounds);
}

/** The compiled package, as applications have it: the bench's transpiler names closures as they are made, for 7 % of a request of one item. */
async function ours(bundle: string, shape: ModelShape, batch: number): Promise<Contender> {
  const { openLocal } = (await import(compiledPath('index.js'))) as typeof import('../src/index.js');
  const predictor = await openLocal(bundle, { verify: 'size', deadlineMs: 10_000 });
  const generator = new RequestGenerator(requestShape(shape), batch);
  const requests: PredictRequest[] = Array.from({ length: TURNS }, () => generator.next(batch));
  let turn = 0;
  const run = (): Promise<unknown> => predictor.predict(requests[turn++ % TURNS] as PredictRequest);
  return { peer: null, round: (ms) => nanosecondsPerCall(run, ms), close: () => predictor.close() };
}
