import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connect, openLocal, type Predictor, type PredictRequest, readModelSpec, readPlan } from '../../../src/index.js';
import { writeModelJson } from '../../../src/model/bundle.js';
import { modelSchema } from '../../../src/model/spec.js';
import { signatureOf } from '../../../src/serve/tensors/signature.js';
import { keyedRequest, writeKeyedModel } from '../../reference/keyed-model.js';
import { randomRequest } from '../../reference/random-model.js';
import { DENSE, random, type SmallModel, smallRequest, writeSmallModel } from '../../reference/small-model.js';
import { type Form, type JsonTensor, outputsOf, tensorsOf } from './client-requests.js';
import { inputData, loadResults, perfAnalyzer } from './perf-analyzer.js';
import { launchShards, type RunningShards, type Served, startServing } from './served-cluster.js';

/** Where scripts/test-clients.mjs installs them; tests without it are skipped. */
const CLIENTS = process.env['TERABAG_CLIENTS'] ?? '';
if (CLIENTS === '') console.warn('tests of terabag serve with other clients are skipped: npm run test:clients installs and runs them');

const python = (environment: string): string => join(CLIENTS, environment, 'bin', 'python');
const here = fileURLToPath(new URL('clients', import.meta.url));
const run = promisify(execFile);

let dir: string;
let small: SmallModel;
let shards: RunningShards;
let served: Served;
let task: string;
let requests: readonly ClientRequest[];
const predictors: Predictor[] = [];

/** Of smallRequests, those whose inputs have the same names and datatypes. */
const LENGTHS: readonly string[] = ['lengths', 'no ids', 'one item'];

interface ClientRequest {
  readonly model: string;
  readonly what: string;
  readonly inputs: readonly JsonTensor[];
  readonly outputs: readonly JsonTensor[];
}

/** A request and how it is sent. */
type Given = readonly [what: string, request: PredictRequest, form?: Form, datatype?: string];

/** Bags of three kinds, of one length each. */
const evenRequest = (items: number): PredictRequest => ({
  dense: { dense: Float32Array.from({ length: DENSE }, (_, at) => at / 3) },
  sparse: {
    sum: { indices: Array.from({ length: items }, (_, item) => item % 50), offsets: Array.from({ length: items + 1 }, (_, end) => end) },
    mean: {
      indices: Array.from({ length: 2 * items }, (_, at) => at % 7),
      offsets: Array.from({ length: items + 1 }, (_, end) => 2 * end),
    },
    weighted: { indices: [3, 1, 4], offsets: [0, 3], weights: [0.5, -0.25, 0.125] },
  },
});

const withoutIds = (items: number): PredictRequest => ({
  items,
  dense: { dense: Float32Array.from({ length: DENSE }, (_, at) => -at / 7) },
  sparse: {
    sum: { indices: [], offsets: [0, 0] },
    mean: { indices: [], offsets: Array.from({ length: items + 1 }, () => 0) },
    weighted: { indices: [], offsets: [0, 0], weights: [] },
  },
});

function smallRequests(): Given[] {
  const next = random(31);
  return [
    ['lengths', smallRequest(next, 5)],
    ['offsets', smallRequest(next, 4), 'offsets'],
    ["Merlin's names", smallRequest(next, 3), 'merlin'],
    ['ids alone', evenRequest(6), 'short'],
    ['ids of 32 bits', smallRequest(next, 5), 'lengths', 'INT32'],
    ['ids of 8 bits without a sign', smallRequest(next, 2), 'offsets', 'UINT8'],
    ['no ids', withoutIds(3)],
    ['one item', smallRequest(next, 1)],
    ['many items', smallRequest(next, 300)],
  ];
}

/** As clients send it, with what the API answers. */
async function clientRequests(
  model: string,
  predictor: Predictor,
  dims: Map<string, number>,
  given: readonly Given[],
): Promise<ClientRequest[]> {
  const requests: ClientRequest[] = [];
  for (const [what, request, form = 'lengths', datatype = 'INT64'] of given) {
    const inputs = tensorsOf(request, dims, { form, datatype });
    requests.push({ model, what, inputs, outputs: outputsOf(await predictor.predict(request, { deadlineMs: 10_000 })) });
  }
  return requests;
}

beforeAll(async () => {
  if (CLIENTS === '') return;
  dir = await mkdtemp(join(tmpdir(), 'terabag-clients-'));
  small = await writeSmallModel(5);
  await writeModelJson(small.dir, modelSchema.parse({ ...(await readModelSpec(small.dir)), outputs: ['bottom'] }));
  const keyedDir = join(dir, 'keyed');
  const keyed = await writeKeyedModel(join(dir, 'plain'), keyedDir, 3);
  shards = await launchShards(small.dir);
  const plan = await readPlan(shards.plan);
  const [remote, local] = await Promise.all([connect(plan, { bundle: small.dir }), openLocal(keyedDir)]);
  predictors.push(remote, local);
  const dense = (spec: { dense: readonly { name: string; dim: number }[] }) => new Map(spec.dense.map(({ name, dim }) => [name, dim]));
  const next = random(8);
  const { inputs, outputs } = signatureOf(remote.model);
  served = await startServing(
    `small=${small.dir}`,
    `keyed=${keyedDir}`,
    ...['--plan', `small=${shards.plan}`, '--allow-repository-control', '--deadline', '10s'],
  );
  const toSmall = await clientRequests('small', remote, dense(await readModelSpec(small.dir)), smallRequests());
  const toKeyed = await clientRequests('keyed', local, dense(keyed.plain), [
    ['keys of 64 bits', keyedRequest(keyed, randomRequest(keyed.plain, next, 4), 'bigint')],
    ['keys without a sign', keyedRequest(keyed, randomRequest(keyed.plain, next, 2), 'unsigned'), 'offsets', 'UINT64'],
  ]);
  requests = [...toSmall, ...toKeyed];
  task = join(dir, 'task.json');
  await writeFile(
    task,
    JSON.stringify({
      http: served.http,
      grpc: served.grpc,
      model: 'small',
      other: 'keyed',
      shards: shards.cluster.shards.map(({ pid }) => pid),
      extensions: ['binary_tensor_data', 'model_repository', 'statistics'],
      signature: [...inputs, ...outputs],
      requests,
    }),
  );
});
afterAll(async () => {
  await served?.stop();
  await Promise.all(predictors.map((predictor) => predictor.close()));
  await shards?.cluster.stop();
  for (const each of [dir, small?.dir]) if (each !== undefined) await rm(each, { recursive: true });
});

test.skipIf(CLIENTS === '').each([
  ['tritonclient[http] 2.73', 'triton', 'triton_http.py', 14],
  ['tritonclient[http] 2.50', 'triton-2.50', 'triton_http.py', 14],
  ['tritonclient[grpc] 2.73', 'triton', 'triton_grpc.py', 15],
  ['tritonclient[grpc] 2.50', 'triton-2.50', 'triton_grpc.py', 15],
  ["kserve's REST client", 'kserve', 'kserve_rest.py', 6],
  ["kserve's gRPC client", 'kserve', 'kserve_grpc.py', 5],
] as const)('%s gets the bits of the API, and is told what is wrong', async (_, environment, script, checks) => {
  const { stdout } = await run(python(environment), [join(here, script), task], { timeout: 110_000, maxBuffer: 2 ** 24 });
  const results = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { name: string; error: string | null });
  expect(results.filter(({ error }) => error !== null).map(({ name, error }) => `${name}: ${error}`)).toEqual([]);
  expect(results.length).toBe(checks);
});

const LOADS = [
  ['concurrency', '--concurrency-range', '1:4:3', [1, 4]],
  ['request rate', '--request-rate-range', '20:40:20', [20, 40]],
] as const;

test
  .skipIf(CLIENTS === '')
  .each(
    LOADS.flatMap(([what, option, range, loads]) => ['http', 'grpc'].map((protocol) => [protocol, what, option, range, loads] as const)),
  )('perf_analyzer drives ragged requests over %s by %s', async (protocol, _, option, range, loads) => {
  const data = join(dir, 'input-data.json');
  // It takes the inputs of all requests to be those of the first.
  await writeFile(
    data,
    inputData(requests.filter(({ model, what }) => model === 'small' && LENGTHS.includes(what)).map(({ inputs }) => inputs)),
  );
  const report = join(dir, `${protocol}-${option}.csv`);
  const stdout = await perfAnalyzer(CLIENTS, [
    ...['-m', 'small', '-u', protocol === 'http' ? served.http : served.grpc, '-i', protocol, '--input-data', data],
    ...[option, range, '--request-count', '60', '-f', report],
  ]);
  const results = loadResults(report);
  expect(
    results.map(({ load }) => load),
    stdout,
  ).toEqual(loads);
  for (const { perSecond, p50Us, p99Us } of results) {
    expect(perSecond, stdout).toBeGreaterThan(0);
    expect(p50Us).toBeGreaterThan(0);
    expect(p99Us).toBeGreaterThanOrEqual(p50Us);
  }
  expect(stdout).not.toMatch(/error|failed/i);
});
