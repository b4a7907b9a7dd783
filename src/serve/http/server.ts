import { createServer, type IncomingMessage, type Server, type ServerOptions, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { ByteBudget } from '../../byte-budget.js';
import { TerabagError } from '../../errors.js';
import type { TlsFiles } from '../security/tls.js';
import type { Tokens } from '../security/tokens.js';
import type { Serving } from '../serving.js';
import { type Answer, errorAnswer, send } from './answer.js';
import { Refusal } from './refusal.js';
import { type Route, Router } from './router.js';
import { type Handler, protocolRoutes } from './routes.js';

export interface HttpOptions {
  readonly host: string;
  /** 0: a free one. */
  readonly port: number;
  /** Bytes of one body, decompressed. */
  readonly maxBody: number;
  readonly maxConnections: number;
  /** Slow clients lose their connection: after this for a header, and for a whole request. */
  readonly headersMs: number;
  readonly requestMs: number;
  readonly tls?: TlsFiles | undefined;
  readonly tokens?: Tokens | undefined;
  /** Whose pages may call: an origin, or *; left out: none. */
  readonly corsOrigin?: string | undefined;
  /** Beside those of the protocol. */
  readonly routes?: readonly Route<Handler>[];
}

/** How often slow clients are looked for. */
const CHECK_MS = 1_000;
/** Longer than load balancers keep idle connections, which would otherwise send into one that is being closed. */
const KEEP_ALIVE_MS = 75_000;
const MAX_HEADER_BYTES = 16 * 1024;
/** Of all bodies, where each alone may be larger. */
const MAX_BODIES_BYTES = 2 ** 30;
/** How long after the last answer connections are kept for a client that has not read it yet. */
const LINGER_MS = 500;

/** Health is asked by load balancers and kubelets, which have no tokens; the page holds nothing of what is served, and asks for one itself. */
const OPEN_PATHS: ReadonlySet<string> = new Set(['/v2/health/live', '/v2/health/ready', '/']);

/** HTTP/1.1 of a Serving. */
export class HttpServer {
  readonly #server: Server;
  readonly #router: Router<Handler>;
  readonly #bodies = new ByteBudget(MAX_BODIES_BYTES);
  /** Requests whose header was read, and whose answer was not written. */
  #active = 0;
  #whenIdle: (() => void) | null = null;

  private constructor(
    private readonly serving: Serving,
    private readonly options: HttpOptions,
  ) {
    this.#router = new Router([...protocolRoutes(serving, { maxBytes: options.maxBody, budget: this.#bodies }), ...(options.routes ?? [])]);
    const limits: ServerOptions = {
      ...{ headersTimeout: options.headersMs, requestTimeout: options.requestMs, connectionsCheckingInterval: CHECK_MS },
      ...{ keepAliveTimeout: KEEP_ALIVE_MS, maxHeaderSize: MAX_HEADER_BYTES, noDelay: true },
    };
    const listener = (request: IncomingMessage, response: ServerResponse): void => void this.#counted(request, response);
    this.#server = options.tls === undefined ? createServer(limits, listener) : createTlsServer({ ...limits, ...options.tls }, listener);
    this.#server.maxConnections = options.maxConnections;
  }

  /** Resolves when it listens; rejects (invalid_argument) when it cannot. */
  static async listen(serving: Serving, options: HttpOptions): Promise<HttpServer> {
    const http = new HttpServer(serving, options);
    const { host, port } = options;
    await new Promise<void>((resolve, reject) => {
      const failed = (error: Error): void => reject(cannotListen(`${host}:${port}`, error));
      http.#server.once('error', failed);
      http.#server.listen(port, host, () => {
        http.#server.off('error', failed);
        resolve();
      });
    });
    return http;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  async #counted(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.#active++;
    await this.#handle(request, response);
    this.#active--;
    if (this.#active === 0) this.#whenIdle?.();
  }

  /** Never rejects. */
  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const gone = new AbortController();
    response.once('close', () => {
      if (!response.writableFinished) gone.abort();
    });
    // A client that goes while it is answered.
    response.on('error', () => undefined);
    this.#allowOrigin(request, response);
    let answer: Answer;
    try {
      answer = await this.#answer(request, response, gone.signal);
    } catch (error) {
      answer = errorAnswer(error);
    }
    try {
      // The parser tells of the end of a body that there is none of when this turn is over.
      await null;
      if (response.destroyed) return;
      // What is left of a body that nobody reads would be taken for the next request.
      if (!request.complete || this.serving.draining) response.setHeader('connection', 'close');
      await send(request, response, answer);
    } catch {
      response.destroy();
    }
  }

  #answer(request: IncomingMessage, response: ServerResponse, signal: AbortSignal): Answer | Promise<Answer> {
    const { url = '/', method = 'GET' } = request;
    const at = url.indexOf('?');
    const path = at < 0 ? url : url.slice(0, at);
    const { corsOrigin, tokens } = this.options;
    if (method === 'OPTIONS' && corsOrigin !== undefined) return { status: 204, headers: {}, parts: [] };
    if (tokens !== undefined && !OPEN_PATHS.has(path) && !tokens.accepts(request.headers.authorization))
      throw new Refusal(401, 'a bearer token is needed: Authorization: Bearer TOKEN', { 'www-authenticate': 'Bearer' });
    // Browsers send simple requests of any page without asking first.
    if (method === 'POST' && !this.#mayCall(request)) throw new Refusal(403, 'pages of this origin may not call (--cors-origin)');
    const { handle, parameters } = this.#router.find(method, path);
    const query = new URLSearchParams(at < 0 ? '' : url.slice(at + 1));
    return handle({
      request,
      response,
      parameters,
      query,
      signal,
      caller: request.headers.authorization ?? request.socket.remoteAddress ?? '',
    });
  }

  #mayCall({ headers: { origin, host } }: IncomingMessage): boolean {
    const { corsOrigin } = this.options;
    if (origin === undefined || corsOrigin === '*' || corsOrigin === origin) return true;
    return URL.canParse(origin) && new URL(origin).host === host;
  }

  #allowOrigin({ headers }: IncomingMessage, response: ServerResponse): void {
    const { corsOrigin } = this.options;
    if (corsOrigin === undefined || headers.origin === undefined) return;
    if (corsOrigin !== '*' && corsOrigin !== headers.origin) return;
    response.setHeader('access-control-allow-origin', corsOrigin);
    response.setHeader('access-control-allow-methods', 'GET, POST');
    response.setHeader('access-control-allow-headers', 'authorization, content-type, content-encoding, inference-header-content-length');
    response.setHeader('access-control-expose-headers', 'inference-header-content-length, server-timing, traceresponse');
    if (corsOrigin !== '*') response.setHeader('vary', 'Origin');
  }

  /** Takes no more connections, and ends once those that are busy are done. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeIdleConnections();
    if (this.#active > 0)
      await new Promise<void>((resolve) => {
        this.#whenIdle = resolve;
      });
    const cut = setTimeout(() => this.#server.closeAllConnections(), LINGER_MS);
    await closed;
    clearTimeout(cut);
  }
}

function cannotListen(address: string, error: Error): TerabagError {
  const from = TerabagError.from(error, 'invalid_argument');
  return new TerabagError(from.code, `cannot listen at ${address}: ${from.message}`, { field: 'http', address }, { cause: error });
}
