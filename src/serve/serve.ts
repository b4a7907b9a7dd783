import { setTimeout as sleep } from 'node:timers/promises';
import { anObject, TerabagError } from '../errors.js';
import { METRICS_HEADERS, MetricsServer, writeMetrics } from '../observe/metrics/metrics-server.js';
import { ServerMetrics } from '../observe/metrics/server-metrics.js';
import type { Predictor } from '../predictor/predictor.js';
import type { GrpcOptions, GrpcServer } from './grpc/server.js';
import type { Route } from './http/router.js';
import type { Handler } from './http/routes.js';
import { HttpServer } from './http/server.js';
import { instrumented } from './instrumented.js';
import { Page } from './page/page.js';
import type { Answering, Peers } from './peers.js';
import { type FindModels, Repository } from './repository.js';
import { readTls, type TlsOptions } from './security/tls.js';
import { Tokens } from './security/tokens.js';
import type { ModelSource } from './served-model.js';
import { type EndedRequest, Serving } from './serving.js';
import { openTraces } from './traces/open-traces.js';

/** One version of a model that is served. */
export interface ServedPredictor {
  /** In paths of requests. */
  readonly name: string;
  /** Default 1. */
  readonly version?: string;
  /** Not closed when serving ends: it is the caller's. */
  readonly predictor: Predictor;
}

/** How models are served. */
export interface ServeOptions {
  /** Where HTTP listens: HOST:PORT; port 0 takes a free one. Default 127.0.0.1:8000. */
  readonly http?: string;
  /** Where gRPC listens, likewise; default: it does not. */
  readonly grpc?: string;
  /** Of a predictor that is given without a name; default model. */
  readonly name?: string;
  readonly tls?: TlsOptions;
  /** A file of bearer tokens, one a line, of which each request but those for health needs one; read anew when it changes. Default: none is asked for. */
  readonly tokenFile?: string;
  /** A further listener, HOST:PORT, of /metrics and health only, without TLS and tokens; default none: /metrics is at HTTP's. */
  readonly metrics?: string;
  /** How long a request waits for others, with which it is run, ms; default 0: requests are not merged. See docs/batching.md. */
  readonly batchDelayMs?: number;
  /** Of requests that name none, where they are merged; default 100. */
  readonly deadlineMs?: number;
  /** Bytes of the body of a request, or of a message of gRPC, decompressed; default 64 MiB. */
  readonly maxBody?: number;
  /** Connections of HTTP, and of gRPC, at a time; default 10,000. */
  readonly maxConnections?: number;
  /** Ms that a client may take to send a header, default 10 s; and a whole request, default 60 s: slower ones lose their connection. */
  readonly headersMs?: number;
  readonly requestMs?: number;
  /** Origin whose pages may call, or *; default none. */
  readonly corsOrigin?: string;
  /** Whether clients may load and unload models; default false. */
  readonly repositoryControl?: boolean;
  /** How long close() goes on answering requests once it has told that it is not ready, ms; default 0. */
  readonly drainMs?: number;
  /** Told of each request that was answered or refused. */
  readonly onRequest?: (ended: EndedRequest) => void;
  /** Told of models that cannot be opened, and of files that cannot be read anew; default process.emitWarning. */
  readonly onWarning?: (message: string) => void;
}

/** Of a process among several of a server. */
export interface ProcessOptions {
  /** The text of /metrics of all processes; default that of this one. */
  readonly metricsOf?: (own: ServerMetrics) => () => AsyncIterable<Uint8Array>;
  readonly peersOf?: (answer: Answering) => Peers;
  /** Opens the models before it listens, since connections go to any process that does; default it listens first, live and not ready. */
  readonly openFirst?: boolean;
}

/** What serves. */
export interface ServingServer {
  /** Of HTTP, as http://127.0.0.1:8000. */
  readonly url: string;
  /** Of gRPC, as 127.0.0.1:8001; null where it does not listen. */
  readonly grpcAddress: string | null;
  /** Of the further listener, as http://127.0.0.1:9400; null without one. */
  readonly metricsUrl: string | null;
  /** Whether every table of every model has a live replica, and nothing was asked to end. */
  readonly ready: boolean;
  /** Not ready at once; requests are answered for drainMs more, those in flight end, and then the listeners close. */
  close(): Promise<void>;
}

const DEFAULT_HTTP = '127.0.0.1:8000';
const DEFAULT_MAX_BODY = 64 * 2 ** 20;
const DEFAULT_MAX_CONNECTIONS = 10_000;
const DEFAULT_HEADERS_MS = 10_000;
const DEFAULT_REQUEST_MS = 60_000;
/** How long a moment without requests is waited for before listeners close. */
const MOST_IDLE_MS = 2_000;
const MOST_DRAIN_MS = 2 ** 31 - 1;

/** Serves a predictor, or several models and versions, over the Open Inference Protocol v2. Resolves when it listens. */
export async function serve(predictors: Predictor | readonly ServedPredictor[], options: ServeOptions = {}): Promise<ServingServer> {
  anObject('predictors', predictors);
  anObject('options', options);
  const served = Array.isArray(predictors)
    ? (predictors as readonly ServedPredictor[])
    : [{ name: options.name ?? 'model', predictor: predictors as Predictor }];
  const sources = served.map(
    ({ name, version = '1', predictor }): ModelSource => ({ name, version, open: async () => borrowed(predictor) }),
  );
  const server = await serveModels(async () => sources, options);
  await server.opened;
  return server;
}

/** Its owner closes it. */
const borrowed = (predictor: Predictor): Predictor => ({
  modelHash: predictor.modelHash,
  model: predictor.model,
  ...(predictor.meter && { meter: predictor.meter }),
  ...(predictor.watched && { watched: predictor.watched }),
  predict: (request, options) => predictor.predict(request, options),
  readiness: () => predictor.readiness(),
  stats: () => predictor.stats(),
  close: async () => undefined,
});

/** Serves what find gives, which is opened while it listens already: live, and ready when all is there. @internal */
export async function serveModels(
  find: FindModels,
  options: ServeOptions,
  { peersOf, openFirst = false, metricsOf = (own) => () => own.pieces() }: ProcessOptions = {},
): Promise<ServingServer & { readonly opened: Promise<void> }> {
  const { onWarning = (message: string) => process.emitWarning(message) } = options;
  const { host, port } = addressOf('http', options.http ?? DEFAULT_HTTP);
  const grpcAddress = options.grpc === undefined ? null : addressOf('grpc', options.grpc);
  const { drainMs = 0 } = options;
  if (!(drainMs >= 0 && drainMs <= MOST_DRAIN_MS))
    throw new TerabagError('invalid_argument', `drainMs has to be a number of 0 or more and below 2^31: ${drainMs}`, { field: 'drainMs' });
  const tls = options.tls === undefined ? undefined : await readTls(options.tls);
  const tokens = options.tokenFile === undefined ? undefined : await Tokens.open(options.tokenFile, onWarning);
  const metrics = new ServerMetrics();
  const metricsText = metricsOf(metrics);
  const { batchDelayMs = 0, deadlineMs } = options;
  if (!(batchDelayMs >= 0 && batchDelayMs <= MOST_DRAIN_MS))
    throw new TerabagError('invalid_argument', `batchDelayMs has to be a number of 0 or more and below 2^31: ${batchDelayMs}`, {
      field: 'batchDelayMs',
    });
  const instruments = { metrics, batchDelayMs, deadlineMs };
  const findInstrumented: FindModels = async () => (await find()).map((source) => instrumented(source, instruments));
  const repository = new Repository(findInstrumented, ({ name, version }, { message }) =>
    onWarning(`model ${name} version ${version}: ${message}`),
  );
  const { repositoryControl = false, onRequest } = options;
  const serving = new Serving(repository, {
    ...{ repositoryControl, peersOf, traces: await openTraces() },
    onRequest: (ended) => {
      metrics.requestEnded(ended);
      page.watch.ended(ended);
      onRequest?.(ended);
    },
  });
  const page = await Page.open(serving);
  const open = (): Promise<void> =>
    repository.open().catch((error: unknown) => onWarning(`the models cannot be found: ${TerabagError.from(error).message}`));
  let opened = openFirst ? open() : null;
  await opened;
  const limits = { maxBody: options.maxBody ?? DEFAULT_MAX_BODY, maxConnections: options.maxConnections ?? DEFAULT_MAX_CONNECTIONS };
  let http: HttpServer | null = null;
  let grpc: GrpcServer | null = null;
  let metricsServer: MetricsServer | null = null;
  try {
    http = await HttpServer.listen(serving, {
      ...{ ...limits, host, port, tls, tokens, corsOrigin: options.corsOrigin },
      headersMs: options.headersMs ?? DEFAULT_HEADERS_MS,
      requestMs: options.requestMs ?? DEFAULT_REQUEST_MS,
      routes: [...page.routes(), metricsRoute(metricsText)],
    });
    if (grpcAddress !== null) grpc = await listenGrpc(serving, { ...limits, ...grpcAddress, tls, tokens });
    if (options.metrics !== undefined)
      metricsServer = await MetricsServer.listen({
        ...addressOf('metrics', options.metrics),
        pieces: metricsText,
        ready: () => serving.ready,
      });
  } catch (error) {
    await Promise.all([http?.close(), grpc?.close()]);
    tokens?.close();
    await repository.close();
    throw error;
  }
  opened ??= open();
  // Told of to the end.
  const told = metricsServer;
  const servers = [http, ...(grpc === null ? [] : [grpc])];
  let closing: Promise<void> | null = null;
  const close = async (): Promise<void> => {
    serving.startDraining();
    if (drainMs > 0) await sleep(drainMs);
    // Under load there may be no such moment: listeners close then, and each waits for its own.
    const waited = new AbortController();
    await Promise.race([serving.whenIdle(), sleep(MOST_IDLE_MS, undefined, { signal: waited.signal }).catch(() => undefined)]);
    waited.abort();
    page.close();
    await Promise.all(servers.map((server) => server.close()));
    tokens?.close();
    await repository.close();
    await told?.close();
  };
  return {
    opened,
    url: `${tls === undefined ? 'http' : 'https'}://${authority(host, http.port)}`,
    grpcAddress: grpcAddress === null || grpc === null ? null : authority(grpcAddress.host, grpc.port),
    metricsUrl: told?.url ?? null,
    get ready() {
      return serving.ready;
    },
    close() {
      closing ??= close();
      return closing;
    },
  };
}

const metricsRoute = (pieces: () => AsyncIterable<Uint8Array>): Route<Handler> => ({
  method: 'GET',
  path: '/metrics',
  handle: () => ({ status: 200, headers: METRICS_HEADERS, parts: [], stream: (response) => void writeMetrics(response, pieces()) }),
});

const authority = (host: string, port: number): string => `${host.includes(':') ? `[${host}]` : host}:${port}`;

/** Loaded only where it is asked for: its packages take longer to load than all else. */
async function listenGrpc(serving: Serving, options: GrpcOptions): Promise<GrpcServer> {
  const { GrpcServer: Grpc } = await import('./grpc/server.js');
  return Grpc.listen(serving, options);
}

/** HOST:PORT, [IPv6]:PORT, or *:PORT for all addresses. Throws invalid_argument. */
export function addressOf(field: string, text: string): { readonly host: string; readonly port: number } {
  const [, v6, name, digits = ''] = /^(?:\[([\da-fA-F:.]+)\]|([^:\s[\]]+)):(\d{1,5})$/.exec(text) ?? [];
  const host = v6 ?? name;
  const port = Number(digits);
  if (host !== undefined && port <= 65_535) return { host: host === '*' ? '::' : host, port };
  throw new TerabagError('invalid_argument', `${field} has to be HOST:PORT, such as 127.0.0.1:8000 or *:8000: ${text}`, { field });
}
