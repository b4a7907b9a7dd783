import { SERVER_METADATA } from '../metadata.js';

type Json = Readonly<Record<string, unknown>>;

const MAX_COUNT = Number.MAX_SAFE_INTEGER;
const DATATYPES = ['INT8', 'UINT8', 'INT16', 'UINT16', 'INT32', 'UINT32', 'INT64', 'UINT64', 'FP32'];

const object = (properties: Json, required: readonly string[] = Object.keys(properties)): Json => ({
  type: 'object',
  properties,
  required,
});
const array = (items: Json): Json => ({ type: 'array', items });
const ref = (name: string): Json => ({ $ref: `#/components/schemas/${name}` });
const text: Json = { type: 'string' };
const count: Json = { type: 'integer', minimum: 0, maximum: MAX_COUNT };
/** null stands for what is left out. */
const orNull = ({ type, ...schema }: Json): Json => ({ type: [type, 'null'], ...schema });

/** In a path, each of them. */
const PARAMETERS = {
  model: { name: 'model', in: 'path', required: true, schema: { type: 'string', minLength: 1 } },
  version: { name: 'version', in: 'path', required: true, schema: { type: 'string', minLength: 1 } },
  region: { name: 'region', in: 'path', required: true, schema: { type: 'string', minLength: 1 } },
  encoding: {
    ...{ name: 'Content-Encoding', in: 'header', required: false },
    schema: { type: 'string', enum: ['identity', 'gzip', 'deflate'] },
  },
  headerLength: {
    ...{ name: 'Inference-Header-Content-Length', in: 'header', required: false },
    description: 'Bytes of the JSON, decompressed, where binary tensors follow it; left out when none does.',
    schema: { type: 'integer', minimum: 0, maximum: 2 ** 31 },
  },
  deadline: {
    ...{ name: 'deadline_ms', in: 'query', required: false },
    description: 'Default that of the server.',
    schema: { type: 'number', exclusiveMinimum: 0, maximum: 1e9 },
  },
} as const satisfies Record<string, Json>;

const ids = array({ anyOf: [{ type: 'integer' }, { type: 'string', pattern: '^-?[0-9]{1,20}$' }] });

const SCHEMAS: Readonly<Record<string, Json>> = {
  Error: {
    ...object({ error: text, code: text, details: { type: 'object' } }, ['error']),
    description: 'error says what is wrong, and which input; code is stable, one of docs/errors.md.',
  },
  ServerMetadata: object({ name: text, version: text, extensions: array(text) }),
  Live: object({ live: { type: 'boolean' } }),
  Ready: object({ ready: { type: 'boolean' } }),
  ModelReady: object({ name: text, ready: { type: 'boolean' }, reasons: array(text) }, ['name', 'ready']),
  ModelNames: object({ models: array(text) }),
  TensorMetadata: object({ name: text, datatype: { type: 'string', enum: DATATYPES }, shape: array({ type: 'integer', minimum: -1 }) }),
  ModelMetadata: object({
    ...{ name: text, versions: array(text), platform: text },
    ...{ inputs: array(ref('TensorMetadata')), outputs: array(ref('TensorMetadata')) },
  }),
  TensorConfig: object({ name: text, data_type: text, dims: array({ type: 'integer', minimum: -1 }), optional: { type: 'boolean' } }, [
    'name',
    'data_type',
    'dims',
  ]),
  ModelConfig: object(
    {
      ...{ name: text, platform: text, backend: text, max_batch_size: count },
      ...{ input: array(ref('TensorConfig')), output: array(ref('TensorConfig')) },
    },
    ['name', 'max_batch_size', 'input', 'output'],
  ),
  Duration: object({ count, ns: count }),
  ModelStatistics: object({
    ...{ name: text, version: text, last_inference: count, inference_count: count, execution_count: count },
    inference_stats: object(
      Object.fromEntries(
        ['success', 'fail', 'queue', 'compute_input', 'compute_infer', 'compute_output'].map((name) => [name, ref('Duration')]),
      ),
    ),
  }),
  Statistics: object({ model_stats: array(ref('ModelStatistics')) }),
  InferInput: {
    ...object(
      {
        name: text,
        datatype: { type: 'string', enum: DATATYPES },
        shape: array(count),
        parameters: orNull({ type: 'object', properties: { binary_data_size: orNull(count) } }),
        data: {
          description: 'Values row by row, flat or nested; integers beyond 2^53 as they are, or as strings of digits.',
          type: ['array', 'null'],
          items: { type: ['number', 'string', 'array'], items: { type: ['number', 'string', 'array'] } },
        },
      },
      ['name', 'datatype', 'shape'],
    ),
    description:
      'Of a feature f: f.values (ids) with f.lengths or f.offsets, f.weights of a weighted one; or f itself, bags of one length. Of a dense feature g: g.',
  },
  InferRequestedOutput: object(
    { name: text, parameters: orNull({ type: 'object', properties: { binary_data: orNull({ type: 'boolean' }) } }) },
    ['name'],
  ),
  InferRequest: object(
    {
      id: orNull(text),
      parameters: orNull({
        type: 'object',
        properties: {
          timeout: { ...orNull(count), description: 'Microseconds; 0: that of the server.' },
          priority: orNull(count),
          items: { ...orNull(count), description: 'How many items are ranked, where no input tells it.' },
          binary_data_output: { ...orNull({ type: 'boolean' }), description: 'Whether outputs that do not say it themselves are binary.' },
        },
      }),
      inputs: array(ref('InferInput')),
      outputs: orNull(array(ref('InferRequestedOutput'))),
    },
    ['inputs'],
  ),
  InferOutput: object(
    {
      ...{ name: text, datatype: { type: 'string', const: 'FP32' }, shape: { ...array(count), minItems: 2, maxItems: 2 } },
      ...{ data: array({ type: 'number' }), parameters: object({ binary_data_size: count }) },
    },
    ['name', 'datatype', 'shape'],
  ),
  InferResponse: object(
    {
      ...{ model_name: text, model_version: text, id: text },
      parameters: object({ degraded: { type: 'boolean' }, missing_tables: text }),
      outputs: array(ref('InferOutput')),
    },
    ['model_name', 'model_version', 'outputs'],
  ),
  RankRequest: {
    ...object(
      {
        items: { type: 'integer', minimum: 0 },
        dense: { type: 'object', additionalProperties: array({ type: 'number' }) },
        sparse: {
          type: 'object',
          additionalProperties: {
            ...object({ indices: ids, offsets: array(count), weights: array({ type: 'number' }) }, ['indices', 'offsets']),
            additionalProperties: false,
          },
        },
      },
      [],
    ),
    additionalProperties: false,
    description: 'A line of a file of requests: docs/workloads.md.',
  },
  RankResponse: object(
    {
      ...{ model: text, version: text, scoreDim: count, scores: array({ type: 'number' }) },
      outputs: { type: 'object', additionalProperties: array({ type: 'number' }) },
      ...{ degraded: { type: 'boolean' }, missingTables: array(text) },
    },
    ['model', 'version', 'scores'],
  ),
  RepositoryIndex: array(
    object({ name: text, version: text, state: { type: 'string', enum: ['LOADING', 'READY', 'UNAVAILABLE'] }, reason: text }),
  ),
  Empty: { type: 'object', maxProperties: 0 },
};

const json = (name: string): Json => ({ 'application/json': { schema: ref(name) } });
const binary: Json = { 'application/octet-stream': { schema: { type: 'string', format: 'binary' } } };

/** What each status means; which of them an operation can answer with is said there. */
const REFUSALS: Readonly<Record<number, { readonly description: string; readonly headers?: Json }>> = {
  400: { description: 'The request is not as it has to be: the text names the input.' },
  401: { description: 'A bearer token is needed.', headers: { 'WWW-Authenticate': { schema: text } } },
  404: { description: 'No such model or version is served.' },
  413: { description: 'The body is too large.' },
  415: { description: 'The body has a Content-Encoding that is not read.' },
  501: { description: 'Not supported by this server.' },
  503: { description: 'A shard is away, or the server has too much to do.', headers: { 'Retry-After': { schema: { type: 'integer' } } } },
  504: { description: 'The deadline has passed.' },
};

interface Operation {
  readonly summary: string;
  readonly tag: 'health' | 'metadata' | 'inference' | 'repository' | 'unsupported';
  /** Name of the schema of a 200, or none where it never succeeds. */
  readonly answer?: string;
  readonly answerHeaders?: Json;
  readonly moreAnswers?: Json;
  readonly body?: { readonly required: boolean; readonly content: Json };
  readonly parameters?: readonly (keyof typeof PARAMETERS)[];
  readonly refusals: readonly number[];
}

function operation(path: string, { summary, tag, answer, answerHeaders, moreAnswers, body, parameters = [], refusals }: Operation): Json {
  const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name as keyof typeof PARAMETERS);
  const told = [...inPath, ...parameters].map((name) => ({ $ref: `#/components/parameters/${name}` }));
  const ok = answer !== undefined && {
    200: { description: 'Done.', ...(answerHeaders && { headers: answerHeaders }), content: { ...json(answer), ...moreAnswers } },
  };
  const refused = Object.fromEntries(refusals.map((status) => [status, { $ref: `#/components/responses/Refusal${status}` }]));
  return {
    ...{ summary, tags: [tag] },
    ...(told.length > 0 && { parameters: told }),
    ...(body && { requestBody: body }),
    responses: { ...ok, ...refused },
  };
}

/** A 503 that is no refusal: not ready. */
const notReady = (schema: string): Json => ({ 503: { description: 'Not ready.', content: json(schema) } });
const withResponses = (made: Json, more: Json): Json => ({ ...made, responses: { ...(made['responses'] as Json), ...more } });

function paths(): Readonly<Record<string, Json>> {
  const made: Record<string, Json> = {};
  const add = (method: 'get' | 'post', path: string, told: Operation, more: Json = {}): void => {
    made[path] = { ...made[path], [method]: withResponses(operation(path, told), more) };
  };
  /** Of the latest version, and of one that is named. */
  const both = (method: 'get' | 'post', suffix: string, told: Operation, more: Json = {}): void => {
    for (const path of ['/v2/models/{model}', '/v2/models/{model}/versions/{version}']) add(method, path + suffix, told, more);
  };
  const optionalBody = { required: false, content: { 'application/json': { schema: { type: 'object' } } } };
  const infer: Operation = {
    ...{ summary: 'Ranks the items of a request of named tensors.', tag: 'inference', answer: 'InferResponse' },
    answerHeaders: { 'Inference-Header-Content-Length': { description: 'Bytes of JSON before binary outputs.', schema: count } },
    moreAnswers: binary,
    body: { required: true, content: { ...json('InferRequest'), ...binary } },
    parameters: ['headerLength', 'encoding'],
    refusals: [400, 401, 404, 413, 415, 501, 503, 504],
  };
  const rank: Operation = {
    ...{ summary: 'Ranks the items of a request of plain JSON.', tag: 'inference', answer: 'RankResponse' },
    body: { required: true, content: json('RankRequest') },
    parameters: ['deadline', 'encoding'],
    refusals: [400, 401, 404, 413, 415, 501, 503, 504],
  };
  const change = (summary: string): Operation => ({
    ...{ summary, tag: 'repository', answer: 'Empty', body: optionalBody, parameters: ['encoding'] },
    refusals: [400, 401, 404, 413, 415, 501, 503],
  });
  const unsupported = (summary: string): Operation => ({ summary, tag: 'unsupported', refusals: [401, 501] });

  add('get', '/v2', { summary: 'Name, version and extensions of the server.', tag: 'metadata', answer: 'ServerMetadata', refusals: [401] });
  add('get', '/v2/health/live', { summary: 'Whether the server runs.', tag: 'health', answer: 'Live', refusals: [] });
  add(
    'get',
    '/v2/health/ready',
    { summary: 'Whether requests should come here.', tag: 'health', answer: 'Ready', refusals: [] },
    notReady('Ready'),
  );
  add('get', '/v2/models', { summary: 'Names of the models.', tag: 'metadata', answer: 'ModelNames', refusals: [401] });
  add('get', '/v2/models/stats', { summary: 'Statistics of all models.', tag: 'metadata', answer: 'Statistics', refusals: [401] });
  both('get', '', { summary: 'Inputs and outputs of a model.', tag: 'metadata', answer: 'ModelMetadata', refusals: [401, 404, 503] });
  both(
    ...(['get', '/ready'] as const),
    { summary: 'Whether a model answers requests.', tag: 'health', answer: 'ModelReady', refusals: [401, 404] },
    notReady('ModelReady'),
  );
  both('get', '/config', {
    summary: "A model in the words of Triton's configuration.",
    tag: 'metadata',
    answer: 'ModelConfig',
    refusals: [401, 404, 503],
  });
  both('get', '/stats', { summary: 'Statistics of a model.', tag: 'metadata', answer: 'Statistics', refusals: [401, 404] });
  both('post', '/infer', infer);
  add('post', '/v1/models/{model}:rank', rank);
  add('post', '/v1/models/{model}/versions/{version}:rank', rank);
  add('post', '/v2/repository/index', {
    ...{ summary: 'All models that are there, and whether they are loaded.', tag: 'repository', answer: 'RepositoryIndex' },
    ...{ body: { required: false, content: { 'application/json': { schema: object({ ready: { type: 'boolean' } }, []) } } } },
    ...{ parameters: ['encoding'], refusals: [400, 401, 413, 415, 503] },
  });
  add('post', '/v2/repository/models/{model}/load', change('Loads a model, or what has changed of it.'));
  add('post', '/v2/repository/models/{model}/unload', change('Unloads a model once its requests have ended.'));
  for (const kind of ['systemsharedmemory', 'cudasharedmemory']) {
    add('get', `/v2/${kind}/status`, unsupported('Shared memory.'));
    add('get', `/v2/${kind}/region/{region}/status`, unsupported('Shared memory.'));
    add('post', `/v2/${kind}/region/{region}/register`, unsupported('Shared memory.'));
    add('post', `/v2/${kind}/region/{region}/unregister`, unsupported('Shared memory.'));
    add('post', `/v2/${kind}/unregister`, unsupported('Shared memory.'));
  }
  for (const method of ['get', 'post'] as const) {
    both(method, '/trace/setting', unsupported('The trace extension.'));
    add(method, '/v2/trace/setting', unsupported('The trace extension.'));
    add(method, '/v2/logging', unsupported('The logging extension.'));
  }
  add('get', '/openapi.json', { summary: 'This document.', tag: 'metadata', answer: 'OpenApi', refusals: [401] });
  return made;
}

/** The HTTP interface as an OpenAPI 3.1 document. */
export function openApiDocument(): Json {
  const refusals = Object.entries(REFUSALS).map(([status, refusal]) => [`Refusal${status}`, { ...refusal, content: json('Error') }]);
  return {
    openapi: '3.1.0',
    info: {
      title: 'Terabag',
      version: SERVER_METADATA.version,
      description: `Deep learning recommendation models over the Open Inference Protocol v2 with the extensions ${SERVER_METADATA.extensions.join(', ')}. Beside it: the page at /, what it shows, and /metrics.`,
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    paths: paths(),
    components: {
      schemas: { ...SCHEMAS, OpenApi: { type: 'object', required: ['openapi', 'info', 'paths'] } },
      parameters: PARAMETERS,
      responses: Object.fromEntries(refusals),
      securitySchemes: { token: { type: 'http', scheme: 'bearer' } },
    },
    // Only where the server was given tokens.
    security: [{}, { token: [] }],
  };
}
