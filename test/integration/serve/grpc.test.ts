import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import {
  type ChannelCredentials,
  type ClientOptions,
  compressionAlgorithms,
  credentials,
  type ServiceError,
  status as Status,
} from '@grpc/grpc-js';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  ERROR_CODES,
  openLocal,
  type Prediction,
  type PredictOptions,
  type Predictor,
  type PredictRequest,
  type ServeOptions,
  type ServingServer,
  serve,
  TerabagError,
} from '../../../src/index.js';
import { readModelSpec, writeModelJson } from '../../../src/model/bundle.js';
import { modelSchema } from '../../../src/model/spec.js';
import {
  Health,
  HealthCheckRequestSchema,
  HealthCheckResponseSchema,
  HealthCheckResponse_ServingStatus as Serving,
} from '../../../src/serve/grpc/proto/health_pb.js';
import {
  DataType,
  GRPCInferenceService,
  ModelInferRequestSchema,
  ModelStreamInferResponseSchema,
} from '../../../src/serve/grpc/proto/open_inference_pb.js';
import { DENSE, random, type SmallModel, smallRequest, writeSmallModel } from '../../reference/small-model.js';
import { validRequest } from '../../reference/small-requests.js';
import { type Form, floatsOf, GrpcClient, inferRequest, inputsOf, ints } from './grpc-client.js';

const { method } = GRPCInferenceService;
const PATH = `/${GRPCInferenceService.typeName}`;

let model: SmallModel;
let real: Predictor;
let server: ServingServer;
let client: GrpcClient;
/** In the place of predict, where a test sets it. */
let instead: ((request: PredictRequest, options: PredictOptions) => Promise<Prediction>) | null = null;
let ready = true;
const clients: GrpcClient[] = [];
const servers: ServingServer[] = [];

/** The real one, but for what a test puts in its place. */
const predictor = (): Predictor => ({
  modelHash: real.modelHash,
  model: real.model,
  predict: (request, options = {}) => (instead ?? ((...given) => real.predict(...given)))(request, options),
  readiness: () => ({ ready, missing: [] }),
  stats: () => real.stats(),
  close: async () => undefined,
});

async function serving(options: ServeOptions = {}): Promise<ServingServer> {
  const started = await serve([{ name: 'small', predictor: predictor() }], { http: '127.0.0.1:0', grpc: '127.0.0.1:0', ...options });
  servers.push(started);
  return started;
}

function clientOf({ grpcAddress }: ServingServer, channel?: ChannelCredentials, options?: ClientOptions): GrpcClient {
  const made = new GrpcClient(grpcAddress as string, channel, options);
  clients.push(made);
  return made;
}

beforeAll(async () => {
  model = await writeSmallModel(11);
  await writeModelJson(model.dir, modelSchema.parse({ ...(await readModelSpec(model.dir)), outputs: ['bottom'] }));
  real = await openLocal(model.dir, { deadlineMs: 10_000 });
  server = await serving();
  client = clientOf(server);
});
afterAll(async () => {
  for (const each of clients) each.close();
  await Promise.all(servers.map((each) => each.close()));
  await real?.close();
  await rm(model.dir, { recursive: true });
});

/** What a call is refused with. */
async function refusal(call: Promise<unknown>): Promise<{ code: string; details: string; word: unknown }> {
  const failed = (await call.then(
    () => {
      throw new Error('it is answered, and should not be');
    },
    (error: unknown) => error,
  )) as ServiceError;
  if (failed.code === undefined) throw failed;
  return { code: Status[failed.code] as string, details: failed.details, word: failed.metadata.get('terabag-code')[0] };
}

const small = (): PredictRequest => smallRequest(random(5), 4);
const asked = (form: Form = 'raw', more: object = {}) => inferRequest(inputsOf(small(), DENSE), form, more);

test('raw, typed and mixed contents get the bits of the API, raw where the request was', async () => {
  await fc.assert(
    fc.asyncProperty(
      validRequest({ minItems: 0, minIds: 0 }),
      fc.constantFrom<Form>('raw', 'typed', 'mixed'),
      async ({ items, request }, form) => {
        const { scores, outputs = {} } = await real.predict(request);
        const parameters = { items: { parameterChoice: { case: 'int64Param', value: BigInt(items) } } } as const;
        const answer = await client.call(method.modelInfer, inferRequest(inputsOf(request, DENSE), form, { id: 'an id', parameters }));
        expect([answer.modelName, answer.modelVersion, answer.id]).toEqual(['small', '1', 'an id']);
        expect(answer.outputs.map(({ name, datatype, shape }) => [name, datatype, shape])).toEqual([
          ['scores', 'FP32', [BigInt(items), 1n]],
          ['bottom', 'FP32', [BigInt(items), items === 0 ? 0n : 12n]],
        ]);
        const raw = form !== 'typed';
        expect(answer.rawOutputContents.length).toBe(raw ? 2 : 0);
        const values = raw
          ? answer.rawOutputContents.map(floatsOf)
          : answer.outputs.map(({ contents }) => Float32Array.from(contents?.fp32Contents ?? []));
        expect(values).toEqual([scores, outputs['bottom']]);
      },
    ),
    { numRuns: 60 },
  );
});

test('outputs come by name, in the order asked for', async () => {
  const names = (outputs: string[]) =>
    client
      .call(method.modelInfer, asked('raw', { outputs: outputs.map((name) => ({ name })) }))
      .then((answer) => answer.outputs.map(({ name }) => name));
  expect(await names(['bottom'])).toEqual(['bottom']);
  expect(await names(['bottom', 'scores'])).toEqual(['bottom', 'scores']);
  expect(await refusal(names(['other']))).toMatchObject({ code: 'INVALID_ARGUMENT', details: expect.stringContaining('output other') });
});

test('the smaller of the deadline and the parameter timeout counts', async () => {
  const given: (number | undefined)[] = [];
  instead = async (request, { deadlineMs }) => {
    given.push(deadlineMs);
    return real.predict(request);
  };
  const timeout = (us: number) => ({ parameters: { timeout: { parameterChoice: { case: 'int64Param', value: BigInt(us) } } } });
  try {
    await client.call(method.modelInfer, asked());
    await client.call(method.modelInfer, asked('raw', timeout(2_000_000)));
    await client.call(method.modelInfer, asked('raw', timeout(0)));
    await client.call(method.modelInfer, asked('raw', timeout(2_000_000)), { deadline: Date.now() + 60_000 });
    await client.call(method.modelInfer, asked('raw', timeout(90_000_000)), { deadline: Date.now() + 60_000 });
    expect(given.slice(0, 4)).toEqual([undefined, 2000, undefined, 2000]);
    expect(given[4]).toBeGreaterThan(30_000);
    expect(given[4]).toBeLessThanOrEqual(60_000);
  } finally {
    instead = null;
  }
});

function deferred<T>(): { readonly promise: Promise<T>; readonly resolve: (value: T) => void } {
  let resolve: (value: T) => void = () => undefined;
  const promise = new Promise<T>((resolved) => {
    resolve = resolved;
  });
  return { promise, resolve };
}

/** Answers when its signal is aborted, or release is called. */
function held(): { readonly begun: Promise<void>; readonly ended: Promise<'aborted' | 'released'>; release(): void } {
  const begun = deferred<void>();
  const ended = deferred<'aborted' | 'released'>();
  instead = async (request, { signal }) => {
    signal?.addEventListener('abort', () => ended.resolve('aborted'));
    begun.resolve();
    await ended.promise;
    return real.predict(request);
  };
  return { begun: begun.promise, ended: ended.promise, release: () => ended.resolve('released') };
}

test('a call that is cancelled, or whose deadline passes, ends its prediction', async () => {
  try {
    const abort = new AbortController();
    const first = held();
    const cancelled = refusal(client.call(method.modelInfer, asked(), { signal: abort.signal }));
    await first.begun;
    abort.abort();
    expect(await cancelled).toMatchObject({ code: 'CANCELLED' });
    expect(await first.ended).toBe('aborted');
    const second = held();
    const late = refusal(client.call(method.modelInfer, asked(), { deadline: Date.now() + 300 }));
    expect(await second.ended).toBe('aborted');
    expect(await late).toMatchObject({ code: 'DEADLINE_EXCEEDED' });
    const third = held();
    const stream = client.duplex(method.modelStreamInfer);
    stream.on('error', () => undefined);
    stream.write(Buffer.from(toBinary(ModelInferRequestSchema, create(ModelInferRequestSchema, asked()))));
    await third.begun;
    stream.cancel();
    expect(await third.ended).toBe('aborted');
  } finally {
    instead = null;
  }
});

test('every code of an error is a status, with its message and itself as a trailer', async () => {
  try {
    for (const code of ERROR_CODES) {
      instead = () => Promise.reject(new TerabagError(code, `it is ${code}: ${'😀'.repeat(3)}`));
      const { details, word } = await refusal(client.call(method.modelInfer, asked()));
      expect([details, word]).toEqual([`it is ${code}: 😀😀😀`, code]);
    }
    instead = () => Promise.reject(new Error('a fault'));
    expect(await refusal(client.call(method.modelInfer, asked()))).toEqual({ code: 'INTERNAL', details: 'a fault', word: 'internal' });
  } finally {
    instead = null;
  }
});

test('an answer without some shards says so', async () => {
  instead = async (request) => ({ ...(await real.predict(request)), degraded: true, missingTables: ['t0', 't2'] });
  try {
    const { parameters } = await client.call(method.modelInfer, asked());
    expect(parameters['degraded']?.parameterChoice).toEqual({ case: 'boolParam', value: true });
    expect(parameters['missing_tables']?.parameterChoice).toEqual({ case: 'stringParam', value: 't0,t2' });
  } finally {
    instead = null;
  }
  expect((await client.call(method.modelInfer, asked())).parameters).toEqual({});
});

test('every method answers', async () => {
  expect((await client.call(method.serverLive, {})).live).toBe(true);
  expect((await client.call(method.serverReady, {})).ready).toBe(true);
  const readiness = async (name: string, version = '') => (await client.call(method.modelReady, { name, version })).ready;
  expect([await readiness('small'), await readiness('small', '1'), await readiness('small', '2'), await readiness('other')]).toEqual([
    true,
    true,
    false,
    false,
  ]);
  ready = false;
  expect([(await client.call(method.serverReady, {})).ready, await readiness('small')]).toEqual([false, false]);
  ready = true;
  expect(await client.call(method.serverMetadata, {})).toMatchObject({
    name: 'terabag',
    extensions: expect.arrayContaining(['statistics']),
  });
  const metadata = await client.call(method.modelMetadata, { name: 'small' });
  expect(metadata).toMatchObject({ name: 'small', versions: ['1'], platform: 'terabag' });
  expect(metadata.inputs.slice(0, 2)).toMatchObject([
    { name: 'dense', datatype: 'FP32', shape: [-1n, 5n] },
    { name: 'sum.values', datatype: 'INT64', shape: [-1n] },
  ]);
  expect(metadata.outputs).toMatchObject([
    { name: 'scores', shape: [-1n, 1n] },
    { name: 'bottom', shape: [-1n, 12n] },
  ]);
  const { config } = await client.call(method.modelConfig, { name: 'small', version: '1' });
  expect(config).toMatchObject({ name: 'small', maxBatchSize: 0, versionPolicy: { policyChoice: { case: 'all' } } });
  expect(config?.input.find(({ name }) => name === 'sum.offsets')).toMatchObject({
    dataType: DataType.TYPE_INT64,
    dims: [-1n],
    optional: true,
  });
  expect(config?.output[0]).toMatchObject({ name: 'scores', dataType: DataType.TYPE_FP32, dims: [-1n, 1n] });
  const statistics = async () => {
    const [told] = (await client.call(method.modelStatistics, { name: 'small' })).modelStats;
    return {
      items: told?.inferenceCount ?? 0n,
      ok: told?.inferenceStats?.success?.count ?? 0n,
      ns: told?.inferenceStats?.success?.ns ?? 0n,
    };
  };
  const before = await statistics();
  await client.call(method.modelInfer, asked());
  const after = await statistics();
  expect([after.items - before.items, after.ok - before.ok, after.ns > before.ns]).toEqual([4n, 1n, true]);
  expect((await client.call(method.modelStatistics, {})).modelStats.length).toBe(1);
  for (const only of [false, true])
    expect((await client.call(method.repositoryIndex, { ready: only })).models).toMatchObject([
      { name: 'small', version: '1', state: 'READY', reason: '' },
    ]);
});

test('what is not there is not_found, what is not supported unimplemented', async () => {
  for (const each of [method.modelMetadata, method.modelConfig, method.modelStatistics])
    expect(await refusal(client.call(each as typeof method.modelConfig, { name: 'other' }))).toMatchObject({
      code: 'NOT_FOUND',
      details: expect.stringContaining('"other"'),
    });
  expect(await refusal(client.call(method.modelInfer, asked('raw', { modelName: 'other' })))).toMatchObject({ code: 'NOT_FOUND' });
  expect(await refusal(client.call(method.modelInfer, asked('raw', { modelVersion: '9' })))).toMatchObject({
    code: 'NOT_FOUND',
    details: expect.stringContaining('"9"'),
  });
  const unsupported = Object.values(method).filter(({ input }) => input.name === 'Unsupported');
  expect(unsupported.length).toBe(8);
  for (const each of unsupported)
    expect(await refusal(client.send(`${PATH}/${each.name}`, Buffer.alloc(1000)))).toMatchObject({
      code: 'UNIMPLEMENTED',
      details: expect.stringContaining('is not supported'),
    });
  expect(await refusal(client.send(`${PATH}/Other`, Buffer.alloc(0)))).toMatchObject({ code: 'UNIMPLEMENTED' });
  for (const each of [method.repositoryModelLoad, method.repositoryModelUnload])
    expect(await refusal(client.call(each as typeof method.repositoryModelLoad, { modelName: 'small' }))).toMatchObject({
      code: 'UNIMPLEMENTED',
      details: expect.stringContaining('--allow-repository-control'),
    });
});

test('models are loaded and unloaded where clients may', async () => {
  const own = clientOf(await serving({ repositoryControl: true }));
  await own.call(method.repositoryModelUnload, { modelName: 'small' });
  expect((await own.call(method.modelReady, { name: 'small' })).ready).toBe(false);
  expect((await own.call(method.repositoryIndex, {})).models).toMatchObject([{ state: 'UNAVAILABLE', reason: 'not loaded' }]);
  expect((await own.call(method.repositoryIndex, { ready: true })).models).toEqual([]);
  await own.call(method.repositoryModelLoad, { modelName: 'small' });
  expect((await own.call(method.modelReady, { name: 'small' })).ready).toBe(true);
  expect(await refusal(own.call(method.repositoryModelLoad, { modelName: 'other' }))).toMatchObject({ code: 'NOT_FOUND' });
});

test('messages of clients fit a trailer, whatever they send', async () => {
  const long = await refusal(client.call(method.modelInfer, asked('raw', { modelName: `x${'😀'.repeat(20_000)}` })));
  expect(long).toMatchObject({ code: 'NOT_FOUND' });
  const inputs = inputsOf(small(), DENSE);
  const unknown = await refusal(client.call(method.modelInfer, inferRequest([...inputs, ints('ü'.repeat(20_000), [])], 'raw')));
  expect(unknown).toMatchObject({ code: 'INVALID_ARGUMENT', details: expect.stringMatching(/^input ü+…$/) });
});

test('messages may be compressed, but become no larger than allowed', async () => {
  const { scores } = await real.predict(small());
  const limited = await serving({ maxBody: 2 ** 20 });
  for (const algorithm of [compressionAlgorithms.gzip, compressionAlgorithms.deflate]) {
    const compressing = clientOf(limited, credentials.createInsecure(), { 'grpc.default_compression_algorithm': algorithm });
    const { rawOutputContents } = await compressing.call(method.modelInfer, asked());
    expect(floatsOf(rawOutputContents[0] as Uint8Array)).toEqual(scores);
    const bomb = ints('sum.values', new Array(2 ** 17 + 1).fill(0));
    expect(await refusal(compressing.call(method.modelInfer, inferRequest([bomb], 'raw')))).toMatchObject({ code: 'RESOURCE_EXHAUSTED' });
  }
  const plain = clientOf(limited);
  expect(await refusal(plain.send(`${PATH}/ModelInfer`, Buffer.alloc(2 ** 20 + 1)))).toMatchObject({ code: 'RESOURCE_EXHAUSTED' });
  expect(await refusal(plain.send(`${PATH}/ModelReady`, Buffer.alloc(2 ** 17)))).toMatchObject({
    code: 'INVALID_ARGUMENT',
    details: 'the message may have 65536 bytes: 131072',
  });
  expect(await refusal(plain.send(`${PATH}/ModelReady`, Buffer.of(0xff)))).toMatchObject({
    code: 'INVALID_ARGUMENT',
    details: expect.stringContaining('is no ModelReadyRequest'),
  });
});

test('a stream answers each request in order, also those that it refuses', async () => {
  const started: number[] = [];
  instead = async (request) => {
    const items = request.items as number;
    started.push(items);
    // The first ones take longest.
    await sleep(Math.max(0, 20 - items));
    if (items === 7) throw new TerabagError('overloaded', 'too many');
    return real.predict(request);
  };
  try {
    const stream = client.duplex(method.modelStreamInfer);
    const count = 50;
    const answers: { id: string; error: string; items: bigint | undefined; last: unknown }[] = [];
    stream.on('data', (bytes: Buffer) => {
      const { errorMessage, inferResponse } = fromBinary(ModelStreamInferResponseSchema, bytes);
      answers.push({
        id: inferResponse?.id ?? '',
        error: errorMessage,
        items: inferResponse?.outputs[0]?.shape[0],
        last: inferResponse?.parameters['triton_final_response']?.parameterChoice.value,
      });
    });
    const status = once(stream, 'status') as Promise<[{ code: number }]>;
    const none = {
      dense: { dense: [1, 0, 1, 0, 1] },
      sparse: {
        sum: { indices: [], offsets: [0, 0] },
        mean: { indices: [], offsets: [0, 0] },
        weighted: { indices: [], offsets: [0, 0], weights: [] },
      },
    };
    for (let n = 1; n <= count; n++) {
      const parameters = { items: { parameterChoice: { case: 'int64Param', value: BigInt(n) } } };
      const request = inferRequest(inputsOf(none, DENSE), n % 2 === 0 ? 'raw' : 'typed', { id: String(n), parameters } as never);
      stream.write(n === 9 ? Buffer.of(0xff) : Buffer.from(toBinary(ModelInferRequestSchema, create(ModelInferRequestSchema, request))));
    }
    stream.end();
    expect((await status)[0].code).toBe(Status.OK);
    expect(answers.length).toBe(count);
    for (const [at, answer] of answers.entries()) {
      const n = at + 1;
      if (n === 7) expect(answer).toEqual({ id: '7', error: 'too many', items: undefined, last: undefined });
      else if (n === 9) expect(answer).toMatchObject({ id: '', error: expect.stringContaining('no ModelInferRequest') });
      else expect(answer).toEqual({ id: String(n), error: '', items: BigInt(n), last: true });
    }
    expect(started.length).toBe(count - 1);
  } finally {
    instead = null;
  }
});

test('a stream has so many requests in work, and leaves others unread', async () => {
  const open = held();
  let running = 0;
  const wait = instead as unknown as (request: PredictRequest, options: PredictOptions) => Promise<Prediction>;
  instead = (...given) => {
    running++;
    return wait(...given);
  };
  try {
    const stream = client.duplex(method.modelStreamInfer);
    let answers = 0;
    stream.on('data', () => answers++);
    const bytes = Buffer.from(toBinary(ModelInferRequestSchema, create(ModelInferRequestSchema, asked())));
    for (let n = 0; n < 60; n++) stream.write(bytes);
    await expect.poll(() => running, { timeout: 10_000 }).toBe(16);
    await sleep(200);
    expect(running).toBe(16);
    open.release();
    const ended = once(stream, 'end');
    stream.end();
    await ended;
    expect([running, answers]).toEqual([60, 60]);
  } finally {
    instead = null;
  }
});

test('health is told to kubelets and load balancers, now and when it changes', async () => {
  const watched = async (service: string) => {
    const watch = client.watch(Health.method.watch, toBinary(HealthCheckRequestSchema, create(HealthCheckRequestSchema, { service })));
    const told: string[] = [];
    watch.on('data', (bytes: Buffer) => told.push(Serving[fromBinary(HealthCheckResponseSchema, bytes).status] as string));
    watch.on('error', () => undefined);
    await once(watch, 'data');
    return { watch, told };
  };
  const check = async (service: string) => Serving[(await client.call(Health.method.check, { service })).status];
  for (const service of ['', 'readiness', 'inference.GRPCInferenceService', 'liveness']) expect(await check(service)).toBe('SERVING');
  expect(await refusal(check('other'))).toMatchObject({ code: 'NOT_FOUND' });
  const watches = [await watched(''), await watched('other')] as const;
  ready = false;
  try {
    expect([await check(''), await check('liveness')]).toEqual(['NOT_SERVING', 'SERVING']);
    await once(watches[0].watch, 'data');
  } finally {
    ready = true;
  }
  await once(watches[0].watch, 'data');
  expect(watches.map(({ told }) => told)).toEqual([['SERVING', 'NOT_SERVING', 'SERVING'], ['SERVICE_UNKNOWN']]);
  for (const { watch } of watches) watch.cancel();
});

test('a token is asked for, but not for health', async () => {
  const tokenFile = join(model.dir, 'tokens');
  await writeFile(tokenFile, 'secret\n');
  const own = clientOf(await serving({ tokenFile }));
  for (const metadata of [{}, { authorization: 'Bearer other' }, { authorization: 'secret' }])
    for (const each of [method.modelInfer, method.serverMetadata])
      expect(
        await refusal(own.call(each as typeof method.modelInfer, asked(), { metadata: metadata as Record<string, string> })),
      ).toMatchObject({ code: 'UNAUTHENTICATED' });
  const stream = own.duplex(method.modelStreamInfer);
  stream.on('data', () => undefined);
  const [failed] = (await once(stream, 'error')) as [ServiceError];
  expect(failed.code).toBe(Status.UNAUTHENTICATED);
  const metadata = { authorization: 'Bearer secret' };
  expect((await own.call(method.modelInfer, asked(), { metadata })).outputs.length).toBe(2);
  expect((await own.call(method.serverReady, {})).ready).toBe(true);
  expect((await own.call(method.serverLive, {})).live).toBe(true);
  expect((await own.call(Health.method.check, {})).status).toBe(Serving.SERVING);
});

test('TLS is as that of HTTP, also with certificates of clients', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-tls-'));
  const at = (name: string): string => join(dir, name);
  const openssl = (...args: string[]): void => void execFileSync('openssl', args, { stdio: 'ignore' });
  for (const name of ['server', 'other']) {
    const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
    openssl(
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:prime256v1',
      '-nodes',
      '-days',
      '2',
      '-keyout',
      at(`${name}.key`),
      '-out',
      at(`${name}.crt`),
      ...subject,
    );
  }
  const pem = async (name: string) => readFile(at(name));
  const tls = { cert: at('server.crt'), key: at('server.key') };
  const options = { 'grpc.ssl_target_name_override': 'localhost' };
  const root = await pem('server.crt');
  const own = clientOf(await serving({ tls }), credentials.createSsl(root), options);
  expect((await own.call(method.modelInfer, asked())).outputs.length).toBe(2);
  const mutual = await serving({ tls: { ...tls, clientCa: at('server.crt') } });
  const certified = clientOf(mutual, credentials.createSsl(root, await pem('server.key'), root), options);
  expect((await certified.call(method.modelInfer, asked())).outputs.length).toBe(2);
  const strangers = [
    credentials.createSsl(root),
    credentials.createSsl(root, await pem('other.key'), await pem('other.crt')),
    credentials.createInsecure(),
  ];
  for (const stranger of strangers)
    expect(await refusal(clientOf(mutual, stranger, options).call(method.serverLive, {}, { deadline: Date.now() + 5000 }))).toMatchObject({
      code: 'UNAVAILABLE',
    });
  await rm(dir, { recursive: true });
});

test('a server that is closed is not ready, answers what is in flight, and ends what would last', async () => {
  const closing = await serving({ drainMs: 400 });
  const own = clientOf(closing);
  const watch = own.watch(Health.method.watch, Buffer.alloc(0));
  const told: string[] = [];
  watch.on('data', (bytes: Buffer) => told.push(Serving[fromBinary(HealthCheckResponseSchema, bytes).status] as string));
  const watchEnd = once(watch, 'error') as Promise<[ServiceError]>;
  const stream = own.duplex(method.modelStreamInfer);
  stream.on('data', () => undefined);
  const streamEnd = once(stream, 'error') as Promise<[ServiceError]>;
  await once(watch, 'data');
  const open = held();
  const inFlight = own.call(method.modelInfer, asked());
  await open.begun;
  const closed = closing.close();
  try {
    expect((await own.call(method.serverReady, {})).ready).toBe(false);
    expect((await own.call(method.modelReady, { name: 'small' })).ready).toBe(false);
    await sleep(600);
    expect((await own.call(method.serverLive, {})).live).toBe(true);
    open.release();
    expect((await inFlight).outputs.length).toBe(2);
  } finally {
    open.release();
    instead = null;
  }
  expect([(await watchEnd)[0].code, (await streamEnd)[0].code]).toEqual([Status.UNAVAILABLE, Status.UNAVAILABLE]);
  expect(told).toEqual(['SERVING', 'NOT_SERVING']);
  await closed;
  expect(await refusal(own.call(method.serverLive, {}))).toMatchObject({ code: 'UNAVAILABLE' });
});

test('an address is refused that is none, or is taken', async () => {
  const options = { http: '127.0.0.1:0' };
  await expect(serve(predictor(), { ...options, grpc: 'nowhere' })).rejects.toMatchObject({
    code: 'invalid_argument',
    details: { field: 'grpc' },
  });
  await expect(serve(predictor(), { ...options, grpc: server.grpcAddress as string })).rejects.toMatchObject({
    code: 'invalid_argument',
    details: { field: 'grpc' },
  });
  const without = await serve(predictor(), options);
  expect(without.grpcAddress).toBe(null);
  await without.close();
});
