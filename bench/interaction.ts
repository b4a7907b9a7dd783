import { native } from '../src/engine/native.js';
import { SeededNumbers } from '../src/lab/generate/synthetic-values.js';
import { NO_ATTRIBUTES } from '../src/model/ops.js';
import { binary, startPeer } from './peers/process.js';
import { type Absent, type Contender, type Line, measure, nanosecondsPerCall, perWork, type Suite, type SuiteOptions } from './suite.js';

const VECTORS = 27;
const DIMS = [128, 64];
const BATCH = 64;

export const interactionSuite: Suite = {
  name: 'interaction',
  description: 'dot interaction of DLRM on one core: the first vector, then the products of all pairs; time per sample',
  async *run(options) {
    for (const dim of DIMS) if (options.wanted.test(`${VECTORS}x${dim}`)) yield* runCase(dim, options);
  },
};

async function* runCase(dim: number, { peers, rounds, quick }: SuiteOptions): AsyncGenerator<Line> {
  const gflop = (VECTORS * (VECTORS - 1) * dim) / 1e9;
  const contenders: (Contender | Absent)[] = [ours(dim), perWork(await startPeer('limit', binary('limits'), { what: 'fma' }), gflop)];
  if (peers) contenders.push(await startPeer('openblas', binary('openblas'), { what: 'interaction', vectors: VECTORS, dim, batch: BATCH }));
  const params = { vectors: VECTORS, dim, batch: BATCH };
  const described = {
    suite: 'interaction',
    name: `${VECTORS}x${dim}`,
    params,
    metric: 'time per sample',
    unit: 'us',
    roundMs: quick ? 20 : 150,
  };
  yield* await measure({ ...described, fromNs: (ns) => ns / 1000 }, contenders, rounds);
}

function ours(dim: number): Contender {
  const inputs = Array.from({ length: VECTORS }, (_, vector) => vector);
  const width = dim + (VECTORS * (VECTORS - 1)) / 2;
  const layer = {
    ...NO_ATTRIBUTES,
    op: 'dot_interaction',
    inputs,
    dim: width,
    stage: 0,
  } as const;
  const net = new native.DenseNet(Array<number>(VECTORS).fill(dim), VECTORS, [layer], VECTORS);
  const workspace = net.createWorkspace();
  const perItem = new Uint8Array(VECTORS).fill(1);
  const dense = new Float32Array(VECTORS * BATCH * dim);
  new SeededNumbers(5).fill(dense, 0.1);
  const run = (): void => net.runSync(workspace, 0, BATCH, perItem, dense, null, null, null);
  return { peer: null, residency: 'none', round: async (ms) => (await nanosecondsPerCall(run, ms)) / BATCH };
}
