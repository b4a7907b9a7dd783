import { type AddressInfo, createServer, type Server as NetServer, type Socket } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import { type ConnectionInjector, Server, ServerCredentials } from '@grpc/grpc-js';
import { ByteBudget } from '../../byte-budget.js';
import { TerabagError } from '../../errors.js';
import type { TlsFiles } from '../security/tls.js';
import type { Tokens } from '../security/tokens.js';
import type { Serving } from '../serving.js';
import { definitionOf } from './call.js';
import { healthMethods } from './health.js';
import { OpenCalls } from './open-calls.js';
import { Health } from './proto/health_pb.js';
import { GRPCInferenceService } from './proto/open_inference_pb.js';
import { receiver } from './received.js';
import { inferenceMethods } from './service.js';

export interface GrpcOptions {
  readonly host: string;
  /** 0: a free one. */
  readonly port: number;
  /** Bytes of one message, decompressed. */
  readonly maxBody: number;
  readonly maxConnections: number;
  readonly tls?: TlsFiles | undefined;
  readonly tokens?: Tokens | undefined;
  /** Bytes of all messages that are held, where each alone may be larger; default 1 GiB. */
  readonly maxHeld?: number;
  /** A message has to be whole this long after it began; default 60 s. */
  readonly wholeMs?: number;
}

/** Of one connection; clients keep further calls back. As many as a predictor has requests in flight. */
const MAX_STREAMS = 1024;
const MAX_HELD_BYTES = 2 ** 30;
const WHOLE_MS = 60_000;
/** Peers that are silent for so long are asked for a sign, and lose their connection when they give none. */
const KEEP_ALIVE_MS = 60_000;
const KEEP_ALIVE_TIMEOUT_MS = 20_000;
const HANDSHAKE_MS = 10_000;
/** How long after the last answer connections are kept for a client that has not read it yet. */
const LINGER_MS = 500;

/** Health is asked by load balancers and kubelets, which have no tokens. */
const OPEN_PATHS: ReadonlySet<string> = new Set([
  ...Health.methods.map(({ name }) => `/${Health.typeName}/${name}`),
  ...['ServerLive', 'ServerReady'].map((name) => `/${GRPCInferenceService.typeName}/${name}`),
]);

/** gRPC of a Serving. Its sockets are our own, so that connections are limited and TLS is as HTTP's. */
export class GrpcServer {
  readonly #server: Server;
  readonly #listener: NetServer;
  readonly #sockets = new Set<Socket>();
  readonly #open = new OpenCalls();

  private constructor(
    private readonly serving: Serving,
    options: GrpcOptions,
  ) {
    const { maxBody, maxConnections, tls, tokens, maxHeld = MAX_HELD_BYTES, wholeMs = WHOLE_MS } = options;
    const budget = new ByteBudget(maxHeld);
    this.#server = new Server({
      'grpc.max_receive_message_length': maxBody,
      'grpc.max_send_message_length': -1,
      'grpc.max_concurrent_streams': MAX_STREAMS,
      'grpc.keepalive_time_ms': KEEP_ALIVE_MS,
      'grpc.keepalive_timeout_ms': KEEP_ALIVE_TIMEOUT_MS,
      'grpc.enable_channelz': 0,
      interceptors: [receiver({ maxBytes: maxBody, wholeMs, budget, tokens, open: OPEN_PATHS })],
    });
    this.#server.addService(definitionOf(GRPCInferenceService), inferenceMethods(serving, this.#open));
    this.#server.addService(definitionOf(Health), healthMethods(serving, this.#open));
    const injector: ConnectionInjector = this.#server.createConnectionInjector(ServerCredentials.createInsecure());
    const inject = (socket: Socket): void => injector.injectConnection(socket);
    this.#listener =
      tls === undefined
        ? createServer({ noDelay: true }, inject)
        : createTlsServer({ ...tls, ALPNProtocols: ['h2'], handshakeTimeout: HANDSHAKE_MS, noDelay: true }, inject);
    this.#listener.maxConnections = maxConnections;
    this.#listener.on('connection', (socket: Socket) => {
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
    });
  }

  /** Resolves when it listens; rejects (invalid_argument) when it cannot. */
  static async listen(serving: Serving, options: GrpcOptions): Promise<GrpcServer> {
    const grpc = new GrpcServer(serving, options);
    const { host, port } = options;
    await new Promise<void>((resolve, reject) => {
      const failed = (error: Error): void => reject(cannotListen(`${host}:${port}`, error));
      grpc.#listener.once('error', failed);
      grpc.#listener.listen(port, host, () => {
        grpc.#listener.off('error', failed);
        resolve();
      });
    });
    return grpc;
  }

  get port(): number {
    return (this.#listener.address() as AddressInfo).port;
  }

  /** Takes no more connections, and ends once those that are busy are done. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#listener.close(() => resolve()));
    this.#open.end();
    // Connections are told to make no more calls; those in flight end.
    this.#server.tryShutdown(() => undefined);
    await this.serving.whenIdle();
    const cut = setTimeout(() => {
      this.#server.forceShutdown();
      for (const socket of this.#sockets) socket.destroy();
    }, LINGER_MS);
    await closed;
    clearTimeout(cut);
  }
}

function cannotListen(address: string, error: Error): TerabagError {
  const from = TerabagError.from(error, 'invalid_argument');
  return new TerabagError(from.code, `cannot listen at ${address}: ${from.message}`, { field: 'grpc', address }, { cause: error });
}
