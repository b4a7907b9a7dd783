import { Context, Dealer, type EventType, Router } from 'zeromq';
import type { NativePeerLimits } from '../../engine/native.js';
import { bindAgain } from './bind-again.js';
import type { Lent } from './buffer-pool.js';
import { anonymousBytes } from './memory.js';
import { refusalOf, whyUnreachable } from './reasons.js';
import { ClientKeyring, type ClientKeys, ReadFiles, readServerKeys, type SecurityOptions, type ServerKeys } from './security.js';
import {
  type ClientHandlers,
  type ClientTransport,
  IPC_BACKLOG,
  isIpc,
  type Listening,
  MAX_MESSAGE_BYTES,
  PEER_LIMITS,
  type PeerCounts,
  type ServerHandler,
  SOCKET_LIMITS,
  type SocketListenOptions,
  usesIpv6,
  WATCH_MS,
} from './transport.js';
import { Zap } from './zap.js';

const SOCKET_OPTIONS = {
  linger: 0,
  sendHighWaterMark: SOCKET_LIMITS.highWaterMark,
  receiveHighWaterMark: SOCKET_LIMITS.highWaterMark,
  sendTimeout: 0,
  maxMessageSize: MAX_MESSAGE_BYTES,
  handshakeInterval: SOCKET_LIMITS.handshakeMs,
  tcpMaxRetransmitTimeout: SOCKET_LIMITS.tcpMaxRetransmitMs,
} as const;

/** Answers that may wait for a peer: zeromq.js does not tell how many of their bytes do. */
const ANSWERS_PER_PEER = 1024;

/** Memory of its own, which V8 frees. */
const owned = (bytes: Uint8Array): Lent => ({ bytes, release: () => undefined });

/** What refusalOf reads. */
const FAILURES = {
  'handshake:error:other': 0x0800,
  'handshake:error:protocol': 0x2000,
  'handshake:error:auth': 0x4000,
} as const satisfies Partial<Record<EventType, number>>;

const withKeys = ({ publicKey, secretKey, serverKey }: ClientKeys) => ({
  curvePublicKey: publicKey,
  curveSecretKey: secretKey,
  curveServerKey: serverKey,
});

/** A DEALER of zeromq.js; `immediate` keeps it from queueing for a peer that is away. */
export function connectZeromq(
  endpoint: string,
  handlers: ClientHandlers,
  security: SecurityOptions = {},
  onWarning: (message: string) => void = () => undefined,
): ClientTransport {
  const keyring = new ClientKeyring(security, onWarning);
  const keys = keyring.next();
  const socket = new Dealer({
    ...SOCKET_OPTIONS,
    ...(keys !== null && withKeys(keys)),
    ipv6: usesIpv6(endpoint),
    immediate: true,
    reconnectInterval: SOCKET_LIMITS.reconnectMs,
    reconnectMaxInterval: SOCKET_LIMITS.reconnectMaxMs,
    connectTimeout: SOCKET_LIMITS.connectMs,
  });
  let closed = false;
  let isUp = false;
  let failure = 0;
  let anew: NodeJS.Timeout | undefined;
  // Events are told after close, too.
  const unlessClosed = (tell: () => void) => () => {
    if (!closed) tell();
  };
  /** libzmq reconnects with the keys of the first connection. */
  const connectAnew = unlessClosed(() => {
    socket.disconnect(endpoint);
    Object.assign(socket, withKeys(keyring.next() as ClientKeys));
    socket.connect(endpoint);
  });
  const connectWithKeys = (otherKey: boolean): void => {
    if (keys === null) return;
    clearTimeout(anew);
    anew = setTimeout(connectAnew, otherKey ? 0 : SOCKET_LIMITS.reconnectMs).unref();
  };
  const up = unlessClosed(() => {
    isUp = true;
    failure = 0;
    keyring.succeeded();
    handlers.up();
  });
  const down = unlessClosed(() => {
    const wasUp = isUp;
    isUp = false;
    connectWithKeys(!wasUp && failure !== 0 && keyring.failed());
    if (wasUp || keys === null) handlers.down();
    else handlers.unreachable();
  });
  socket.events.on('handshake', up);
  socket.events.on('disconnect', down);
  socket.events.on('connect:retry', unlessClosed(handlers.unreachable));
  for (const [event, number] of Object.entries(FAILURES) as [keyof typeof FAILURES, number][])
    socket.events.on(event, () => {
      failure = number;
    });
  const receive = async (): Promise<void> => {
    // Messages are of one frame; those of more are no answers.
    for await (const [bytes, ...more] of socket) if (bytes !== undefined && more.length === 0 && !closed) handlers.message(owned(bytes));
  };
  receive().catch(down);
  try {
    socket.connect(endpoint);
  } catch (error) {
    socket.close();
    throw error;
  }
  return {
    send(message) {
      if (closed || !socket.writable) return false;
      socket.send(Buffer.from(message)).catch(down);
      return true;
    },
    // zeromq.js reads by itself, in later turns of the event loop.
    readWaiting: () => undefined,
    explain: async () => (await whyUnreachable(endpoint)) ?? refusalOf(failure, keys !== null),
    close() {
      closed = true;
      clearTimeout(anew);
      socket.close();
    },
  };
}

/** A name that libzmq has made: a zero and a number. */
const isMade = (peer: Buffer): boolean => peer.byteLength === 5 && peer[0] === 0;

/** libzmq aborts when whom it asks goes while it asks: connections of a server that was closed end in so long. */
const ASKED_MS = 200;

/** Contexts of zeromq.js answer ZAP once each: the application's may do so itself. */
let doors: { readonly context: Context; readonly zap: Zap } | null = null;
function openDoors(): NonNullable<typeof doors> {
  if (doors === null) {
    const context = new Context({ blocky: false });
    doors = { context, zap: new Zap(context) };
  }
  return doors;
}

/**
 * Of servers without keys. With a ZAP domain libzmq ends connections of ZMTP before 3 at once: it takes any bytes for a message of these, and aborts
 * when one arrives while its socket is closed. In a context of its own nobody is asked who is let in.
 */
let openContext: Context | null = null;
function openToAll(): { context: Context; zapDomain: string } {
  openContext ??= new Context({ blocky: false });
  return { context: openContext, zapDomain: 'terabag' };
}

function closeDoorLater(domain: string): void {
  const opened = openDoors();
  setTimeout(() => {
    // Its endpoint is free again only some time after it was closed.
    if (opened.zap.close(domain) && doors === opened) doors = null;
  }, ASKED_MS);
}

/**
 * A ROUTER of zeromq.js. Of what peers may take, libzmq's own limits hold (the length of a message, the number of those that wait, the time of a
 * handshake) and the number of connections; what the addon's sockets count beside that for each peer, is here only looked at for the whole process:
 * when its memory has grown by more than all of them may take, all connections are cut off. Its monitor is asked for every event, so that libzmq can
 * keep the descriptor of a peer with a key that breaks the protocol (docs/reliability.md). That a peer is gone is known when an answer finds nobody:
 * events of zeromq.js name no peers, and messages no connections.
 */
class ZeromqServer implements Listening {
  endpoint: string;
  #socket: Router;
  #counts: PeerCounts = { connections: 0, strangers: 0, cut: 0 };
  readonly #files: ReadFiles<ServerKeys | null>;
  readonly #watch: NodeJS.Timeout;
  readonly #memory = anonymousBytes();
  #receiving: Promise<void> = Promise.resolve();
  #full = false;
  /** While it binds, zeromq.js refuses to send and to receive. */
  #binding: Promise<unknown> = Promise.resolve();

  constructor(
    asked: string,
    private readonly handler: ServerHandler,
    private readonly options: Required<Omit<SocketListenOptions, 'limits'>> & { readonly limits: NativePeerLimits },
    private readonly domain: string | null,
  ) {
    this.endpoint = asked;
    const { security, onRefused } = options;
    this.#files = new ReadFiles([security.key, security.allow], () => readServerKeys(security, onRefused), onRefused);
    this.#socket = this.#open();
    this.#watch = setInterval(() => this.#look(), WATCH_MS).unref();
  }

  allows(publicKey: string): boolean {
    return this.#files.value?.allowed.includes(publicKey) === true;
  }

  refused(reason: string): void {
    this.#counts = { ...this.#counts, strangers: this.#counts.strangers + 1 };
    this.options.onRefused(reason);
  }

  async bind(): Promise<void> {
    try {
      await this.#socket.bind(this.endpoint);
    } catch (error) {
      clearInterval(this.#watch);
      this.#socket.close();
      throw error;
    }
    this.endpoint = this.#socket.lastEndpoint ?? this.endpoint;
  }

  /** `mandatory` makes an unknown peer an error instead of a silent drop. */
  #open(): Router {
    const keys = this.#files.value;
    const socket = new Router({
      ...SOCKET_OPTIONS,
      sendHighWaterMark: ANSWERS_PER_PEER,
      ipv6: usesIpv6(this.endpoint),
      mandatory: true,
      handover: false,
      ...(keys !== null && this.domain !== null
        ? { ...pairOf(keys), context: openDoors().context, zapDomain: this.domain, zapEnforceDomain: true }
        : openToAll()),
    });
    if (isIpc(this.endpoint)) socket.backlog = IPC_BACKLOG;
    socket.events.on('accept', () => this.#accepted());
    socket.events.on('disconnect', () => this.#gone());
    for (const event of ['handshake:error:other', 'handshake:error:protocol'] as const)
      socket.events.on(event, () => this.refused('connection ended in its handshake, or does not speak the protocol with these keys'));
    this.#receiving = this.#receive(socket);
    return socket;
  }

  async #receive(socket: Router): Promise<void> {
    while (!socket.closed) {
      try {
        for await (const [peer, bytes, ...more] of socket) this.#received(peer, bytes, more.length);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EBUSY') throw error;
        await this.#binding;
      }
    }
  }

  #received(peer: Buffer | undefined, bytes: Buffer | undefined, more: number): void {
    if (peer === undefined || bytes === undefined) return;
    if (more > 0 || !isMade(peer)) this.refused(more > 0 ? 'message of several frames' : 'a name of its own choice');
    else this.handler(peer.toString('latin1'), owned(bytes));
  }

  #accepted(): void {
    this.#counts = { ...this.#counts, connections: this.#counts.connections + 1 };
    if (isIpc(this.endpoint)) this.options.accepted();
    if (this.#full || this.#counts.connections < this.options.limits.connections) return;
    this.#full = true;
    this.options.onRefused(`too many connections: ${this.#counts.connections}`);
    this.unbind().catch((error: Error) => this.options.onRefused(error.message));
  }

  #gone(): void {
    this.#counts = { ...this.#counts, connections: Math.max(0, this.#counts.connections - 1) };
    if (!this.#full || this.#counts.connections >= this.options.limits.connections) return;
    this.#full = false;
    this.#again('cannot listen again');
  }

  #again(what: string): void {
    bindAgain(this.endpoint, () => this.#socket.closed || this.bindAgain()).catch((error: Error) =>
      this.options.onRefused(`${what}: ${error.message}`),
    );
  }

  #look(): void {
    const old = this.#files.value;
    if (this.#files.refresh()) this.#changeKeys(old);
    const { unreadProcessBytes, unsentProcessBytes } = this.options.limits;
    const grown = anonymousBytes() - this.#memory;
    if (grown > unreadProcessBytes + unsentProcessBytes) this.#cutAll(`memory has grown by ${grown} bytes`);
  }

  /** With another key of its own, or without one that it let in, it listens anew: a socket of libzmq that is bound again with other keys can abort. */
  #changeKeys(old: ServerKeys | null): void {
    const now = this.#files.value;
    if (now === null) return;
    if (now.pair.publicKey !== old?.pair.publicKey) this.#cutAll('this side has another key');
    else if (old.allowed.some((key) => !now.allowed.includes(key))) this.#cutAll('a key is not allowed any more');
  }

  #cutAll(why: string): void {
    const { connections, cut } = this.#counts;
    this.#counts = { ...this.#counts, connections: 0, cut: cut + connections };
    this.options.onRefused(`all connections: ${why}`);
    this.#socket.close();
    this.#socket = this.#open();
    this.#again('cannot listen again');
  }

  async send(peer: string, parts: readonly Uint8Array[]): Promise<boolean> {
    const message = [Buffer.from(peer, 'latin1'), Buffer.concat(parts)];
    try {
      await this.#binding;
      await this.#socket.send(message);
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EHOSTUNREACH') this.options.onGone(peer);
      return false;
    }
  }

  room = (): number => MAX_MESSAGE_BYTES;
  serve = (): void => undefined;
  setClockOffset = (): void => undefined;
  served = (): Record<string, number> => ({});
  peerCounts = (): PeerCounts => this.#counts;

  unbind(): Promise<void> {
    return this.#bindingWith(this.#socket.unbind(this.endpoint));
  }

  bindAgain(): Promise<void> {
    return this.#bindingWith(this.#socket.bind(this.endpoint));
  }

  #bindingWith(work: Promise<void>): Promise<void> {
    this.#binding = work.catch(() => undefined);
    return work;
  }

  async close(): Promise<void> {
    clearInterval(this.#watch);
    if (this.domain !== null) closeDoorLater(this.domain);
    if (!this.#socket.closed) {
      this.#socket.linger = SOCKET_LIMITS.lingerMs;
      this.#socket.close();
    }
    await this.#receiving;
  }
}

const pairOf = ({ pair }: ServerKeys) => ({ curveServer: true, curvePublicKey: pair.publicKey, curveSecretKey: pair.secretKey });

export async function listenZeromq(endpoint: string, handler: ServerHandler, given: SocketListenOptions = {}): Promise<Listening> {
  const nothing = (): void => undefined;
  const options = { security: {}, limits: PEER_LIMITS, onGone: nothing, onRefused: nothing, accepted: nothing, ...given };
  const encrypted = readServerKeys(options.security) !== null;
  // The server is not there before it has a domain, and nobody asks before it listens.
  const domain: string | null = encrypted
    ? await openDoors().zap.open({ allows: (key) => server.allows(key), refused: (reason) => server.refused(reason) })
    : null;
  const server: ZeromqServer = new ZeromqServer(endpoint, handler, options, domain);
  await server.bind();
  return server;
}
