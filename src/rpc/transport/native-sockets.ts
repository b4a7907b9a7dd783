import { type NativeCurveKeys, type NativePeerLimits, type NativePeerNews, type NativeSocket, native } from '../../engine/native.js';
import { bindAgain } from './bind-again.js';
import { type Lent, messageBuffers } from './buffer-pool.js';
import { refusalOf, whyUnreachable } from './reasons.js';
import { ClientKeyring, ReadFiles, readServerKeys, type SecurityOptions, type ServerKeys } from './security.js';
import {
  type ClientHandlers,
  type ClientTransport,
  IPC_BACKLOG,
  isIpc,
  type Listening,
  MAX_MESSAGE_BYTES,
  PEER_LIMITS,
  type ServerHandler,
  SOCKET_LIMITS,
  type SocketListenOptions,
  usesIpv6,
  WATCH_MS,
} from './transport.js';

/** Messages in a row, and ms in which they are answered, before the event loop has its turn. */
const TURN = 64;
const TURN_MS = 2;
/** What receive says in place of a length. */
const NONE = -1;
const ANSWERED = -2;
/** Up to so many bytes a copy costs less than an ArrayBuffer of its own. */
const COPIED_BYTES = 16 * 1024;

/** The addon reads the system's monotonic clock, performance.now() the same one from another origin. */
const STEADY_ORIGIN_MS = Number(process.hrtime.bigint()) / 1e6 - performance.now();

const { lingerMs: SERVER_LINGER_MS, reconnectMs, reconnectMaxMs, ...LIMITS } = SOCKET_LIMITS;

interface LoopSocketOptions {
  readonly router: boolean;
  readonly endpoint: string;
  readonly keys: NativeCurveKeys | null;
  readonly limits: NativePeerLimits;
}

/** One of the addon's sockets, on the libzmq that zeromq.js has loaded, read on the event loop. */
class LoopSocket {
  readonly native: NativeSocket;
  #closed = false;
  #reading = false;
  #later: NodeJS.Immediate | null = null;

  constructor(
    { router, endpoint, keys, limits }: LoopSocketOptions,
    private readonly received: ServerHandler,
    event: (up: boolean) => void,
  ) {
    const options = {
      ...LIMITS,
      ...{ router, keys, limits },
      backlog: router && isIpc(endpoint) ? IPC_BACKLOG : 0,
      ipv6: usesIpv6(endpoint),
      maxMessageBytes: MAX_MESSAGE_BYTES,
    };
    this.native = new native.Socket(options, () => this.#read(), event);
  }

  get closed(): boolean {
    return this.#closed;
  }

  send(peer: string, parts: readonly Uint8Array[]): boolean {
    if (this.#closed) return false;
    const sent = this.native.send(peer, ...parts);
    this.#readNoticed();
    return sent;
  }

  watchPeers(): NativePeerNews {
    const news = this.native.watchPeers();
    this.#readNoticed();
    return news;
  }

  close(lingerMs: number): void {
    this.#closed = true;
    if (this.#later !== null) clearImmediate(this.#later);
    this.native.close(lingerMs);
  }

  /** All that has arrived. */
  readRest(): void {
    while (!this.#closed && this.#receive() !== NONE);
  }

  /** What was asked of the socket may have taken notice of what arrived, of which the descriptor says nothing any more. */
  #readNoticed(): void {
    if (!this.#reading && this.#later === null && this.native.readable()) this.#readLater();
  }

  #readLater(): void {
    this.#later = setImmediate(() => {
      this.#later = null;
      this.#read();
    });
  }

  #held(bytes: number): Lent {
    if (bytes > COPIED_BYTES) return new LentMessage(this.native.lend());
    const message = messageBuffers.take(bytes);
    this.native.take(message.bytes);
    return message;
  }

  /** What receive said, after the message was passed on. */
  #receive(): number {
    const bytes = this.native.receive();
    if (bytes >= 0) this.received(this.native.peer(), this.#held(bytes));
    return bytes;
  }

  /** Until nothing waits, or for a turn. After a handler that throws, the rest is read later: the descriptor does not tell of it again. */
  #read(): void {
    this.#reading = true;
    let waiting = true;
    const until = performance.now() + TURN_MS;
    try {
      for (let message = 0; message < TURN && !this.#closed; message++) {
        const received = this.#receive();
        waiting = received !== NONE;
        if (!waiting) return;
        // Answering takes time; receiving hardly any.
        if (received === ANSWERED && performance.now() > until) return;
      }
    } finally {
      this.#reading = false;
      if (waiting && !this.#closed && this.#later === null) this.#readLater();
    }
  }
}

/** A message in the memory that libzmq received it into. */
class LentMessage implements Lent {
  readonly bytes: Uint8Array;
  #memory: ArrayBuffer | null;

  constructor(memory: ArrayBuffer) {
    this.bytes = new Uint8Array(memory);
    this.#memory = memory;
  }

  release(): void {
    if (this.#memory !== null) native.Socket.giveBack(this.#memory);
    this.#memory = null;
  }
}

/** Of a client: its server need not greet. */
const CLIENT_LIMITS: NativePeerLimits = { ...PEER_LIMITS, firstMessageMs: 0 };

/** A DEALER that reconnects, and queues nothing for a peer that is away. */
export function connectNative(
  endpoint: string,
  handlers: ClientHandlers,
  security: SecurityOptions = {},
  onWarning: (message: string) => void = () => undefined,
  limits: NativePeerLimits = CLIENT_LIMITS,
): ClientTransport {
  const keyring = new ClientKeyring(security, onWarning);
  let state: 'connecting' | 'up' | 'waiting' = 'connecting';
  let waitMs: number = reconnectMs;
  let reconnect: NodeJS.Timeout | undefined;
  const connect = (keys = keyring.next()): void => {
    state = 'connecting';
    if (keys !== null) socket.native.setKeys(keys);
    socket.native.connect(endpoint);
  };
  /** Called by a timer: what a first connect would throw counts as an attempt that failed. */
  const connectAnew = (): void => {
    try {
      connect();
    } catch {
      connectLater();
      handlers.unreachable();
    }
  };
  const connectLater = (otherKey = false): void => {
    state = 'waiting';
    reconnect = setTimeout(connectAnew, otherKey ? 0 : waitMs).unref();
    if (!otherKey) waitMs = Math.min(2 * waitMs, reconnectMaxMs);
  };
  const up = (): void => {
    if (state === 'waiting') return;
    state = 'up';
    waitMs = reconnectMs;
    keyring.succeeded();
    handlers.up();
  };
  /**
   * What the peer sent before it went is received, and what it did not get is dropped. A connection that has ended is told of more than once. Handlers
   * may close this socket.
   */
  const gone = (): void => {
    if (state === 'waiting') return;
    const wasUp = state === 'up';
    state = 'waiting';
    const otherKey = !wasUp && socket.native.failure() !== 0 && keyring.failed();
    try {
      if (wasUp) socket.readRest();
    } finally {
      if (!socket.closed) {
        socket.native.disconnect(endpoint);
        connectLater(otherKey);
        if (wasUp) handlers.down();
        else handlers.unreachable();
      }
    }
  };
  const keys = keyring.next();
  const socket = new LoopSocket(
    { router: false, endpoint, keys, limits },
    (_, message) => handlers.message(message),
    (isThere) => (isThere ? up() : gone()),
  );
  const watch = setInterval(() => socket.watchPeers(), WATCH_MS).unref();
  const close = (): void => {
    clearTimeout(reconnect);
    clearInterval(watch);
    socket.close(0);
  };
  try {
    connect(keys);
  } catch (error) {
    close();
    throw error;
  }
  return {
    send: (message) => state === 'up' && socket.send('', [message]),
    readWaiting: () => socket.readRest(),
    explain: async () => (await whyUnreachable(endpoint)) ?? refusalOf(socket.closed ? 0 : socket.native.failure(), keys !== null),
    close,
  };
}

const ofServer = ({ pair }: ServerKeys): NativeCurveKeys => ({ ...pair, serverKey: '' });

/** A ROUTER, to which a peer that is not there is an error. */
export function listenNative(endpoint: string, handler: ServerHandler, options: SocketListenOptions = {}): Listening {
  const {
    security = {},
    limits = PEER_LIMITS,
    onGone = () => undefined,
    onRefused = () => undefined,
    accepted = () => undefined,
  } = options;
  const files = new ReadFiles([security.key, security.allow], () => readServerKeys(security, onRefused), onRefused);
  const keys = files.value;
  const socket = new LoopSocket({ router: true, endpoint, limits, keys: keys === null ? null : ofServer(keys) }, handler, accepted);
  let bound: string;
  try {
    if (keys !== null) socket.native.allow(keys.allowed);
    bound = socket.native.bind(endpoint);
  } catch (error) {
    socket.close(0);
    throw error;
  }
  /** With another key of its own it listens anew, which ends connections: libzmq's are of their listener. Clients come back at once. */
  const changeKeys = async (old: ServerKeys | null): Promise<void> => {
    const now = files.value;
    if (now === null) return;
    socket.native.allow(now.allowed);
    if (now.pair.publicKey === old?.pair.publicKey) return;
    socket.native.setKeys(ofServer(now));
    socket.native.unbind(bound);
    await bindAgain(bound, () => !socket.closed && socket.native.bind(bound));
  };
  let news: NativePeerNews = socket.watchPeers();
  const look = (): void => {
    news = socket.watchPeers();
    for (const peer of news.gone) onGone(peer);
    if (news.reason !== '') onRefused(news.reason);
    const old = files.value;
    if (files.refresh()) changeKeys(old).catch((error: Error) => onRefused(`cannot listen with a new key: ${error.message}`));
  };
  const watch = setInterval(look, WATCH_MS).unref();
  return {
    endpoint: bound,
    send: async (peer, parts) => socket.send(peer, parts),
    room: (peer) => (socket.closed ? 0 : socket.native.room(peer)),
    serve(service) {
      if (service === null) socket.native.serve(null);
      else service.serveOn(socket.native);
    },
    setClockOffset: (peer, offsetMs) => socket.native.setClockOffset(peer, offsetMs + STEADY_ORIGIN_MS),
    served: () => socket.native.served(),
    peerCounts() {
      if (!socket.closed) look();
      const { connections, strangers, cut } = news;
      return { connections, strangers, cut };
    },
    unbind: async () => socket.native.unbind(bound),
    bindAgain: async () => void socket.native.bind(bound),
    async close() {
      clearInterval(watch);
      socket.close(SERVER_LINGER_MS);
    },
  };
}
