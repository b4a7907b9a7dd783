import type { IncomingMessage } from 'node:http';
import { TerabagError } from '../../errors.js';
import { predictionToJson, refuseNotFinite } from '../../predictor/prediction-json.js';
import { requestFromJson } from '../../predictor/request-json.js';
import { modelConfig, modelMetadata, SERVER_METADATA } from '../metadata.js';
import { predictOptions, type Serving } from '../serving.js';
import { type Answer, jsonAnswer } from './answer.js';
import { type BodyLimits, withBody } from './body.js';
import { parseExactJson } from './exact-json.js';
import { writeInferAnswer } from './infer-answer.js';
import { type InferRequest, readInferRequest } from './infer-request.js';
import { openApiDocument } from './openapi.js';
import type { Route } from './router.js';
import { asksForTiming, withTiming } from './server-timing.js';

/** A request as handlers see it. */
export interface HttpCall {
  readonly request: IncomingMessage;
  readonly parameters: Readonly<Record<string, string>>;
  /** Of the path, from ? on. */
  readonly query: URLSearchParams;
  /** Aborted when the client goes. */
  readonly signal: AbortSignal;
  /** Of the client, for fairness between callers. */
  readonly caller: string;
}

export type Handler = (call: HttpCall) => Answer | Promise<Answer>;

const HEADER_LENGTH = 'inference-header-content-length';

/** Routes of the Open Inference Protocol v2 (REST) with the extensions of SERVER_METADATA, and of requests as plain JSON. */
export function protocolRoutes(serving: Serving, limits: BodyLimits): Route<Handler>[] {
  const { repository } = serving;
  const get = (path: string, handle: Handler): Route<Handler> => ({ method: 'GET', path, handle });
  const post = (path: string, handle: Handler): Route<Handler> => ({ method: 'POST', path, handle });
  const model = ({ parameters: { model: name = '', version } }: HttpCall) => repository.model(name, version);
  /** With and without a version. */
  const both = (route: (path: string) => Route<Handler>, suffix: string): Route<Handler>[] =>
    ['/v2/models/{model}', '/v2/models/{model}/versions/{version}'].map((path) => route(path + suffix));
  const unsupported = (what: string) => (): never => {
    throw new TerabagError('unsupported', `${what} is not supported`);
  };
  const none = unsupported('shared memory');
  const shared = ['systemsharedmemory', 'cudasharedmemory'].flatMap((kind) => [
    get(`/v2/${kind}/status`, none),
    get(`/v2/${kind}/region/{region}/status`, none),
    post(`/v2/${kind}/region/{region}/register`, none),
    post(`/v2/${kind}/region/{region}/unregister`, none),
    post(`/v2/${kind}/unregister`, none),
  ]);
  const trace = unsupported('the trace extension');
  const logging = unsupported('the logging extension');
  const document = jsonAnswer(openApiDocument());
  return [
    get('/v2', () => jsonAnswer(SERVER_METADATA)),
    get('/v2/health/live', () => jsonAnswer({ live: true })),
    get('/v2/health/ready', () => readyAnswer({ ready: serving.ready })),
    get('/v2/models', () => jsonAnswer({ models: [...new Set(repository.models.map(({ name }) => name))] })),
    get('/v2/models/stats', async () => jsonAnswer({ model_stats: await serving.statistics() })),
    ...both((path) => get(path, (call) => jsonAnswer(modelMetadata(repository, model(call)))), ''),
    ...both((path) => get(path, (call) => readyAnswer(modelReadiness(serving, call))), '/ready'),
    ...both((path) => get(path, (call) => jsonAnswer(modelConfig(model(call)))), '/config'),
    ...both(
      (path) =>
        get(path, async ({ parameters: { model: name, version } }) => jsonAnswer({ model_stats: await serving.statistics(name, version) })),
      '/stats',
    ),
    ...both((path) => post(path, (call) => inferAnswer(serving, limits, call)), '/infer'),
    post('/v2/repository/index', (call) =>
      withBody(call.request, 0, limits, async (body) => jsonAnswer(await repositoryIndex(serving, body))),
    ),
    post('/v2/repository/models/{model}/load', (call) => repositoryAnswer(serving, limits, call, 'load')),
    post('/v2/repository/models/{model}/unload', (call) => repositoryAnswer(serving, limits, call, 'unload')),
    ...shared,
    ...both((path) => get(path, trace), '/trace/setting'),
    ...both((path) => post(path, trace), '/trace/setting'),
    get('/v2/trace/setting', trace),
    post('/v2/trace/setting', trace),
    get('/v2/logging', logging),
    post('/v2/logging', logging),
    get('/openapi.json', () => document),
    post('/v1/models/{model}:rank', (call) => rankAnswer(serving, limits, call)),
    post('/v1/models/{model}/versions/{version}:rank', (call) => rankAnswer(serving, limits, call)),
  ];
}

const readyAnswer = (value: { readonly ready: boolean }): Answer => jsonAnswer(value, value.ready ? 200 : 503);

function modelReadiness(serving: Serving, { parameters: { model = '', version } }: HttpCall) {
  const served = serving.repository.model(model, version);
  const { ready, reasons } = served.readiness();
  return { name: served.name, ready: ready && !serving.draining, ...(reasons.length > 0 && { reasons }) };
}

async function inferAnswer(serving: Serving, limits: BodyLimits, call: HttpCall): Promise<Answer> {
  const { request, signal, parameters, caller } = call;
  const startedAt = performance.now();
  const headerLength = headerLengthOf(request);
  // Before a body is read for nobody.
  serving.repository.model(parameters['model'] ?? '', parameters['version']);
  return withBody(request, headerLength ?? 0, limits, async (body) => {
    const readAt = performance.now();
    const asked = readInferRequest(body, headerLength);
    const parsedAt = performance.now();
    const { timeout, items, timing, priority } = asked.parameters;
    const answer = await serving.infer('http', {
      ...{ model: parameters['model'] ?? '', version: parameters['version'], tensors: asked.tensors, items },
      outputs: asked.outputs.map(({ name }) => name),
      options: predictOptions({ timeouts: [timeout === undefined ? undefined : timeout / 1000], priority, caller, signal }),
    });
    const answeredAt = performance.now();
    const encoded = encodedAnswer(asked, answer);
    if (!timing && !asksForTiming(request)) return encoded;
    const { inputMs, predictMs } = answer.times;
    return withTiming(encoded, { startedAt, readAt, decodeMs: parsedAt - readAt + inputMs, predictMs, answeredAt });
  });
}

function encodedAnswer(asked: InferRequest, answer: Parameters<typeof writeInferAnswer>[1]): Answer {
  const { parts, headerLength } = writeInferAnswer(asked, answer);
  const headers =
    headerLength === null
      ? { 'content-type': 'application/json' }
      : { 'content-type': 'application/octet-stream', [HEADER_LENGTH]: headerLength };
  return { status: 200, headers, parts };
}

function headerLengthOf({ headers }: IncomingMessage): number | null {
  const given = headers[HEADER_LENGTH];
  if (given === undefined) return null;
  const length = typeof given === 'string' && /^\d{1,15}$/.test(given) ? Number(given) : null;
  if (length !== null) return length;
  throw new TerabagError('invalid_argument', `Inference-Header-Content-Length has to be a number of bytes: ${String(given).slice(0, 40)}`, {
    field: 'Inference-Header-Content-Length',
  });
}

/** Body and answer as a line of JSONL requests and scores has them. */
async function rankAnswer(serving: Serving, limits: BodyLimits, { request, parameters, query, signal, caller }: HttpCall): Promise<Answer> {
  const deadline = query.get('deadline_ms');
  const deadlineMs = deadline === null ? undefined : Number(deadline);
  if (deadlineMs !== undefined && !(deadlineMs > 0))
    throw new TerabagError('invalid_argument', `deadline_ms has to be a number above 0: ${deadline}`, { field: 'deadline_ms' });
  const startedAt = performance.now();
  return withBody(request, 0, limits, async (body) => {
    const readAt = performance.now();
    const asked = requestFromJson(parseExactJson(body.toString('utf8')));
    const decodeMs = performance.now() - readAt;
    const { model, prediction, times } = await serving.rank('http', {
      ...{ model: parameters['model'] ?? '', version: parameters['version'] },
      request: asked,
      options: predictOptions({ timeouts: [deadlineMs], caller, signal }),
    });
    const answeredAt = performance.now();
    refuseNotFinite(prediction);
    const encoded = jsonAnswer({ model: model.name, version: model.version, ...predictionToJson(prediction) });
    if (!asksForTiming(request)) return encoded;
    return withTiming(encoded, { startedAt, readAt, decodeMs: decodeMs + times.inputMs, predictMs: times.predictMs, answeredAt });
  });
}

async function repositoryIndex({ repository }: Serving, body: Buffer): Promise<unknown> {
  const asked = body.length === 0 ? {} : parseExactJson(body.toString('utf8'));
  const readyOnly = typeof asked === 'object' && asked !== null && 'ready' in asked && asked.ready === true;
  const entries = await repository.index();
  return readyOnly ? entries.filter(({ state }) => state === 'READY') : entries;
}

/** What the body says, as a model's configuration to override or to unload dependents too, means nothing here. */
async function repositoryAnswer(
  serving: Serving,
  limits: BodyLimits,
  { request, parameters }: HttpCall,
  change: 'load' | 'unload',
): Promise<Answer> {
  return withBody(request, 0, limits, async () => {
    await serving.changeRepository(change, parameters['model'] ?? '');
    return jsonAnswer({});
  });
}
