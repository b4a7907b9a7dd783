import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connect, openLocal, type Predictor, type PredictRequest, readModelSpec, readPlan } from '../../../src/index.js';
import { writeModelJson } from '../../../src/model/bundle.js';
import { modelSchema } from '../../../src/model/spec.js';
import { signatureOf } from '../../../src/serve/tensors/signature.js';
import { type ClientTensor, inferBody } from '../../reference/infer-body.js';
import { keyedRequest, writeKeyedModel } from '../../reference/keyed-model.js';
import { randomRequest } from '../../reference/random-model.js';
import type { ServeProcess } from '../../reference/serve-process.js';
import { DENSE, random, type SmallModel, smallRequest, writeSmallModel } from '../../reference/small-model.js';
import { type Form, inJson, outputsOf, tensorsIn } from './client-requests.js';
import { inputData, loadResults, perfAnalyzer } from './perf-analyzer.js';
import { launchShards, type RunningShards, startReady } from './served-cluster.js';

/** Where scripts/test-clients.mjs installs them; tests without it are skipped. */
const CLIENTS = process.env['TERABAG_CLIENTS'] ?? '';
if (CLIENTS === '') console.warn('tests of terabag serve with other clients are skipped: npm run test:clients installs and runs them');

const python = (environment: string): string => join(CLIENTS, environment, 'bin', 'python');
const here = fileURLToPath(new URL('clients', import.meta.url));
const run = promisify(execFile);

let dir: string;
let small: SmallModel;
let shards: RunningShards;
let served: ServeProcess;
let task: string;
let requests: readonly ClientRequest[];
const predictors: Predictor[] = [];

/** Of smallRequests, those whose inputs have the same names and datatypes. */
const LENGTHS: readonly string[] = ['lengths', 'no ids', 'one item'];

interface ClientRequest {
  readonly model: string;
  readonly what: string;
  readonly inputs: readonly ClientTensor[];
  readonly outputs: readonly ClientTensor[];
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
  dims: Readonly<Record<string, number>>,
  given: readonly Given[],
): Promise<ClientRequest[]> {
  const requests: ClientRequest[] = [];
  for (const [what, request, form = 'lengths', datatype = 'INT64'] of given) {
    const inputs = tensorsIn(request, dims, { form, datatype });
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
  const dense = (spec: { dense: readonly { name: string; dim: number }[] }) =>
    Object.fromEntries(spec.dense.map(({ name, dim }) => [name, dim]));
  const next = random(8);
  const { inputs, outputs } = signatureOf(remote.model);
  served = await startReady(
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
      http: new URL(served.url).host,
      grpc: served.grpc,
      model: 'small',
      other: 'keyed',
      shards: shards.cluster.shards.map(({ pid }) => pid),
      extensions: ['binary_tensor_data', 'model_repository', 'statistics'],
      signature: [...inputs, ...outputs],
      requests: requests.map((request) => ({ ...request, inputs: request.inputs.map(inJson), outputs: request.outputs.map(inJson) })),
    }),
  );
});
afterAll(async () => {
  await served?.end();
  await Promise.all(predictors.map((predictor) => predictor.close()));
  await shards?.cluster.stop();
  for (const each of [dir, small?.dir]) if (each !== undefined) await rm(each, { recursive: true });
});

test.skipIf(CLIENTS === '').each([
  ['tritonclient[http] 2.73', 'triton', 'triton_http.py', 15],
  ['tritonclient[http] 2.50', 'triton-2.50', 'triton_http.py', 15],
  ['tritonclient[grpc] 2.73', 'triton', 'triton_grpc.py', 16],
  ['tritonclient[grpc] 2.50', 'triton-2.50', 'triton_grpc.py', 16],
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

/** Not its --input-tensor-format json: of a dim that may vary it sends one value. */
const LOADS = ['http', 'grpc'].flatMap((protocol) => [
  { protocol, what: 'concurrency', load: 4, args: ['--concurrency-range', '4'] },
  { protocol, what: 'concurrency, asynchronously', load: 4, args: ['--concurrency-range', '4', '--async'] },
  { protocol, what: 'request rate', load: 60, args: ['--request-rate-range', '60'] },
  ...(protocol === 'grpc' ? [{ protocol, what: 'streams', load: 2, args: ['--concurrency-range', '2', '--streaming', '--async'] }] : []),
]);

test.skipIf(CLIENTS === '').each(LOADS)('perf_analyzer drives ragged requests, $protocol: $what', async ({ protocol, load, args }) => {
  const data = join(dir, 'input-data.json');
  // It takes the inputs of all requests to be those of the first.
  const sent = requests.filter(({ model, what }) => model === 'small' && LENGTHS.includes(what));
  await writeFile(data, inputData(sent.map(({ inputs }) => inputs)));
  const report = join(dir, 'report.csv');
  const stdout = await perfAnalyzer(CLIENTS, [
    ...['-m', 'small', '-u', protocol === 'http' ? new URL(served.url).host : (served.grpc ?? ''), '-i', protocol, '--input-data', data],
    ...[...args, '--request-count', '60', '-f', report],
  ]);
  const [result, ...others] = loadResults(report);
  expect(others, stdout).toEqual([]);
  expect(result?.load, stdout).toBe(load);
  expect(result?.perSecond).toBeGreaterThan(0);
  expect(result?.p50Us).toBeGreaterThan(0);
  expect(result?.p99Us).toBeGreaterThanOrEqual(result?.p50Us as number);
  expect(stdout).not.toMatch(/error|failed/i);
});

test.skipIf(CLIENTS === '')('curl ranks with plain JSON, and infers with a body that is compressed', async () => {
  const [request] = requests as readonly [ClientRequest];
  const [scores] = request.outputs as readonly [ClientTensor];
  const curl = async (...args: readonly string[]): Promise<unknown> =>
    JSON.parse((await run('curl', ['--silent', '--show-error', '--fail-with-body', '--max-time', '20', ...args])).stdout);
  expect(await curl(`${served.url}/v2/health/ready`)).toEqual({ ready: true });
  const body = join(dir, 'body.json');
  await writeFile(body, inferBody(request.inputs, () => false, { id: 'curl' }).body);
  const url = `${served.url}/v2/models/small/infer`;
  const expected = { id: 'curl', model_name: 'small', outputs: expect.arrayContaining([expect.objectContaining({ data: scores.values })]) };
  expect(await curl(url, '--data-binary', `@${body}`)).toMatchObject(expected);
  const compressed = join(dir, 'body.json.gz');
  await writeFile(compressed, gzipSync(await readFile(body)));
  const headers = ['-H', 'Content-Encoding: gzip', '-H', 'Content-Type: application/json', '--compressed'];
  expect(await curl(url, ...headers, '--data-binary', `@${compressed}`)).toMatchObject(expected);
  const none = { indices: [], offsets: [0, 0] };
  const plain = { items: 2, dense: { dense: [1, 0, 1, 0, 1] }, sparse: { sum: none, mean: none, weighted: { ...none, weights: [] } } };
  const ranked = await curl(`${served.url}/v1/models/small:rank`, '-d', JSON.stringify(plain));
  expect(ranked).toMatchObject({ model: 'small', scores: [expect.any(Number), expect.any(Number)] });
  // A body that curl announces before it sends it (Expect: 100-continue).
  const large = join(dir, 'large.json');
  await writeFile(large, `${' '.repeat(2 ** 21)}${await readFile(body, 'utf8')}`);
  expect(await curl(url, '-H', 'Expect: 100-continue', '--data-binary', `@${large}`)).toMatchObject(expected);
  await expect(curl(`${served.url}/v2/models/nobody`)).rejects.toMatchObject({
    code: 22,
    stdout: expect.stringContaining('nobody'),
  });
});
