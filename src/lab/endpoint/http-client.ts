import { type ClientRequest, Agent as HttpAgent, request as httpRequest, type IncomingHttpHeaders, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import { ERROR_CODES, type ErrorCode, type ErrorDetails, TerabagError } from '../../errors.js';

export interface HttpAnswer {
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

export interface CallOptions {
  readonly headers?: Readonly<Record<string, string | number>>;
  /** Sent as POST; without one, GET. */
  readonly body?: Uint8Array;
  /** From the call; the connection is given up then. */
  readonly deadlineMs: number;
  readonly signal?: AbortSignal | null | undefined;
}

/** Of statuses whose body does not name one. */
const CODES: ReadonlyMap<number, ErrorCode> = new Map<number, ErrorCode>([
  [400, 'invalid_argument'],
  [404, 'not_found'],
  [413, 'invalid_argument'],
  [429, 'overloaded'],
  [501, 'unsupported'],
  [503, 'overloaded'],
  [504, 'deadline_exceeded'],
]);
/** A connection that a server closed while it lay idle: the request that meets that was not read by anybody. */
const CLOSED_IDLE: ReadonlySet<string | undefined> = new Set(['ECONNRESET', 'EPIPE']);

/** Calls of one HTTP server over connections that are kept and reused: as many as there are calls at a time. */
export class HttpClient {
  readonly #agent: HttpAgent;
  readonly #request: typeof httpRequest;
  readonly #headers: Readonly<Record<string, string>>;

  constructor(
    readonly base: URL,
    { token }: { readonly token?: string | undefined } = {},
  ) {
    const secure = base.protocol === 'https:';
    if (!secure && base.protocol !== 'http:')
      throw new TerabagError('invalid_argument', `the URL has to begin with http:// or https://: ${base.href}`, { field: 'url' });
    const kept = { keepAlive: true, scheduling: 'lifo', noDelay: true } as const;
    this.#agent = secure ? new HttpsAgent(kept) : new HttpAgent(kept);
    this.#request = secure ? httpsRequest : httpRequest;
    this.#headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  }

  /** Resolves with an answer of status 200. Others reject with the code that the body names or that the status stands for; so do calls that end without one. */
  call(path: string, options: CallOptions): Promise<HttpAnswer> {
    return new Promise((resolve, reject) => new Call(this.#send, this.base, path, options, resolve, reject));
  }

  readonly #send: Send = (path, { headers, body }, onResponse) => {
    const { hostname, port, protocol } = this.base;
    const request = this.#request(
      {
        ...{ agent: this.#agent, protocol, port, path, method: body === undefined ? 'GET' : 'POST' },
        // Without the brackets of IPv6.
        hostname: hostname.replace(/^\[|\]$/g, ''),
        headers: { ...this.#headers, ...headers, ...(body !== undefined && { 'content-length': body.byteLength }) },
      },
      onResponse,
    );
    request.end(body);
    return request;
  };

  close(): void {
    this.#agent.destroy();
  }
}

type Send = (path: string, options: CallOptions, onResponse: (response: IncomingMessage) => void) => ClientRequest;

/** One call: it ends once, by its answer, a failure of the connection, its deadline or its signal. */
class Call {
  #request: ClientRequest;
  #done = false;
  readonly #timer: NodeJS.Timeout;

  constructor(
    private readonly send: Send,
    private readonly base: URL,
    private readonly path: string,
    private readonly options: CallOptions,
    private readonly resolve: (answer: HttpAnswer) => void,
    private readonly reject: (error: TerabagError) => void,
  ) {
    const { deadlineMs, signal } = options;
    this.#timer = setTimeout(
      () => this.#giveUp(new TerabagError('deadline_exceeded', `no answer of ${base.host} within ${deadlineMs} ms`)),
      deadlineMs,
    );
    signal?.addEventListener('abort', this.#onAbort);
    this.#request = this.#attempt(true);
    if (signal?.aborted) this.#onAbort();
  }

  #attempt(repeatable: boolean): ClientRequest {
    const request = this.send(this.path, this.options, (response) => this.#read(response));
    request.once('error', (error: NodeJS.ErrnoException) => {
      if (this.#done) return;
      if (repeatable && request.reusedSocket && CLOSED_IDLE.has(error.code)) this.#request = this.#attempt(false);
      else this.#fail(new TerabagError('shard_unavailable', `${this.base.host}: ${error.message}`, {}, { cause: error }));
    });
    return request;
  }

  #read(response: IncomingMessage): void {
    const chunks: Buffer[] = [];
    response.on('data', (chunk: Buffer) => chunks.push(chunk));
    response.once('error', (error) => this.#fail(new TerabagError('shard_unavailable', `${this.base.host}: ${error.message}`)));
    response.once('end', () => {
      const [first = Buffer.alloc(0)] = chunks;
      const body = chunks.length > 1 ? Buffer.concat(chunks) : first;
      if (response.statusCode !== 200) this.#fail(errorOf(response.statusCode ?? 0, body));
      else {
        this.#ended();
        this.resolve({ headers: response.headers, body });
      }
    });
  }

  readonly #onAbort = (): void => this.#giveUp(new TerabagError('aborted', 'the request was aborted'));

  #giveUp(error: TerabagError): void {
    this.#fail(error);
    this.#request.destroy();
  }

  #fail(error: TerabagError): void {
    this.#ended();
    this.reject(error);
  }

  #ended(): void {
    this.#done = true;
    clearTimeout(this.#timer);
    this.options.signal?.removeEventListener('abort', this.#onAbort);
  }
}

function errorOf(status: number, body: Buffer): TerabagError {
  let told: { readonly error?: unknown; readonly code?: unknown; readonly details?: unknown } = {};
  try {
    told = Object(JSON.parse(body.toString('utf8')));
  } catch {
    // Proxies answer in HTML.
  }
  const message = typeof told.error === 'string' ? told.error : body.toString('utf8', 0, 200);
  const details = typeof told.details === 'object' && told.details !== null ? (told.details as ErrorDetails) : {};
  const code = ERROR_CODES.find((known) => known === told.code) ?? CODES.get(status) ?? 'internal';
  return new TerabagError(code, message === '' ? `HTTP status ${status}` : message, details);
}
