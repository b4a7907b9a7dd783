import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { HttpAddress } from '../../endpoints/http-address.js';
import { TerabagError } from '../../errors.js';
import { CONTENT_TYPE } from './render.js';

/** What a probe or a scrape needs is a line and few headers. */
const MAX_HEADER_BYTES = 8192;
/** To send a request, and to take what is written of an answer. */
const TIMEOUT_MS = 10_000;
const MAX_CONNECTIONS = 64;

export const METRICS_HEADERS = { 'content-type': CONTENT_TYPE, 'cache-control': 'no-store' } as const;

export interface MetricsServerOptions extends HttpAddress {
  /** The text of /metrics, anew for each scrape. */
  readonly pieces: () => AsyncIterable<Uint8Array>;
  /** Of /v2/health/ready. */
  readonly ready: () => boolean;
}

/** Answers a scrape; what its reader has not taken is waited for between two pieces. Never rejects. */
async function sendMetrics(response: ServerResponse, pieces: AsyncIterable<Uint8Array>): Promise<void> {
  response.writeHead(200, METRICS_HEADERS);
  if (response.req.method === 'HEAD') response.end();
  else await writeMetrics(response, pieces);
}

/** Its body, when the head is written. Never rejects. */
export async function writeMetrics(response: ServerResponse, pieces: AsyncIterable<Uint8Array>): Promise<void> {
  // What is written to a connection that has ended would end the process.
  response.on('error', () => undefined);
  try {
    for await (const piece of pieces) await written(response, piece);
    response.end();
  } catch {
    // Its reader is gone, or is told so by an answer that has no end.
    response.destroy();
  }
}

/** Resolves when the piece's memory is not read any more. */
function written(response: ServerResponse, piece: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    // Node does not call back for what a connection has not taken when it ends.
    const onClose = (): void => reject(new TerabagError('aborted', 'the reader of the metrics is gone'));
    response.once('close', onClose);
    response.write(piece, (error) => {
      response.off('close', onClose);
      if (error) reject(error);
      else resolve();
    });
  });
}

/** Serves /metrics, /v2/health/live and /v2/health/ready over HTTP, and nothing else. */
export class MetricsServer {
  private constructor(
    private readonly server: Server,
    private readonly options: MetricsServerOptions,
  ) {}

  /** Rejects with invalid_argument where it cannot listen. */
  static async listen(options: MetricsServerOptions): Promise<MetricsServer> {
    const { host, port } = options;
    const server = createServer({
      maxHeaderSize: MAX_HEADER_BYTES,
      headersTimeout: TIMEOUT_MS,
      requestTimeout: TIMEOUT_MS,
      connectionsCheckingInterval: TIMEOUT_MS / 10,
    });
    server.maxConnections = MAX_CONNECTIONS;
    server.timeout = TIMEOUT_MS;
    const serving = new MetricsServer(server, options);
    server.on('request', (request, response) => void serving.#answer(request, response));
    server.listen({ port, ...(host !== undefined && { host }) });
    try {
      await once(server, 'listening');
    } catch (error) {
      const address = `${host ?? '*'}:${port}`;
      const message = `metrics cannot be served at ${address}: ${(error as Error).message}`;
      throw new TerabagError('invalid_argument', message, { endpoint: address }, { cause: error });
    }
    return serving;
  }

  /** As http://127.0.0.1:9400. */
  get url(): string {
    const { port } = this.server.address() as AddressInfo;
    const { host = '*' } = this.options;
    return `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
  }

  /** Cuts connections off. */
  async close(): Promise<void> {
    const closed = once(this.server, 'close');
    this.server.close();
    this.server.closeAllConnections();
    await closed;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pieces, ready } = this.options;
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      // What it sends is not read.
      sendJson(response, 405, { error: `method not allowed: ${request.method}` }, { Allow: 'GET, HEAD', Connection: 'close' });
      return;
    }
    const [path] = (request.url ?? '').split('?', 1);
    switch (path) {
      case '/metrics':
        await sendMetrics(response, pieces());
        return;
      case '/v2/health/live':
        sendJson(response, 200, { live: true });
        return;
      case '/v2/health/ready': {
        const isReady = ready();
        sendJson(response, isReady ? 200 : 503, { ready: isReady });
        return;
      }
      default:
        sendJson(response, 404, { error: 'not found: /metrics, /v2/health/live and /v2/health/ready are served here' });
    }
  }
}

function sendJson(response: ServerResponse, status: number, body: object, headers: Readonly<Record<string, string>> = {}): void {
  const text = JSON.stringify(body);
  response.writeHead(status, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(text), ...headers });
  response.end(text);
}
