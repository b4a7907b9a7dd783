import type { Connect } from '../../src/rpc/link.js';
import { type Lent, messageBuffers } from '../../src/rpc/transport/buffer-pool.js';
import {
  type ClientHandlers,
  type ClientTransport,
  MAX_MESSAGE_BYTES,
  NO_PEERS,
  type Peer,
  type PeerCounts,
  type ServerHandler,
  type ServerTransport,
  SOCKET_LIMITS,
  WATCH_MS,
} from '../../src/rpc/transport/transport.js';
import { falsify } from './falsify.js';
import { kindOf } from './message-kind.js';
import type { SimulatedProcess } from './process.js';
import type { SeededRandom } from './random.js';
import type { Due, Scheduler } from './scheduler.js';
import type { Trace } from './trace.js';

/** Messages that a socket reads in one turn of the event loop. */
const TURN = 64;
/** A lost segment is sent again after so long, and twice as long each further time. */
const RETRANSMIT_MS = 200;
const ESTABLISHED = 1.5;
/** How often what waits for a blocked path, or a stopped process, looks again: faults may be healed before their time. */
const LOOK_AGAIN_MS = 50;
/** Events of a socket that is closed come so late. */
const MOST_LATE_MS = 500;
/** What is on its way counts, too: queues of answers, which nobody offers again, are not so short that a healthy connection loses some. */
const LEAST_ANSWERS = 1024;
/** Answers that are remembered, for replays. */
const REPLAYED = 64;

/** Between main and one host; faults change it. */
export class Path {
  delayMs: number;
  jitterMs: number;
  /** One way or both. */
  toBlockedUntil = 0;
  fromBlockedUntil = 0;
  /** Of a segment, which delays what is behind it. */
  lossChance = 0;
  /** While the queue of main's socket takes nothing. */
  refusingUntil = 0;
  /** Of an answer that comes twice, on whichever connection. */
  replayChance = 0;
  /** Of an answer that is something else. */
  falseChance = 0;
  /** When the last such answer was sent. */
  liedAt = Number.NEGATIVE_INFINITY;
  hostUp = true;

  constructor(
    readonly host: string,
    readonly healthy: { readonly delayMs: number; readonly jitterMs: number },
  ) {
    this.delayMs = healthy.delayMs;
    this.jitterMs = healthy.jitterMs;
  }

  heal(): void {
    Object.assign(this, this.healthy);
    this.toBlockedUntil = this.fromBlockedUntil = this.lossChance = this.refusingUntil = this.replayChance = this.falseChance = 0;
    this.hostUp = true;
  }
}

/** Told of all that the network takes and delivers. */
export interface NetworkObserver {
  clientSent(client: SimulatedClient, connection: Connection, message: Uint8Array): void;
  /** It did not take it. */
  clientRefused(connection: Connection, message: Uint8Array): void;
  clientReceived(client: SimulatedClient, connection: Connection, message: Uint8Array): void;
  serverSent(connection: Connection, message: Uint8Array): void;
  /** memory: what the server reads it from. */
  serverReceived(connection: Connection, message: Uint8Array, memory: ArrayBufferLike): void;
  /** The server is told that its peer is gone. */
  peerGone(connection: Connection): void;
}

export interface NetworkOptions {
  readonly scheduler: Scheduler;
  readonly random: SeededRandom;
  readonly trace: Trace;
  readonly observer: NetworkObserver;
  /** Messages that wait in each direction of a connection. */
  readonly highWaterMark: number;
  /**
   * native: a turn reads many messages in one callback, what lies in a socket can be read at once, and servers are told of peers that are gone;
   * zeromq.js: messages one after another, and a server learns who is gone when an answer finds nobody.
   */
  readonly sockets: 'native' | 'zeromq.js';
}

/** Hosts, what listens on them, and how they are reached. */
export class Network {
  readonly #listening = new Map<string, SimulatedServer>();
  readonly #paths = new Map<string, Path>();
  readonly #latest: Uint8Array[] = [];
  #connections = 0;

  constructor(readonly options: NetworkOptions) {}

  addEndpoint(endpoint: string, path: Path): void {
    this.#paths.set(endpoint, path);
  }

  pathTo(endpoint: string): Path {
    const path = this.#paths.get(endpoint);
    if (path === undefined) throw new Error(`no such endpoint: ${endpoint}`);
    return path;
  }

  listener(endpoint: string): SimulatedServer | null {
    return this.#listening.get(endpoint) ?? null;
  }

  listen(endpoint: string, process: SimulatedProcess, handlers: ServerHandlers, version: number): SimulatedServer {
    const server = new SimulatedServer(this, endpoint, process, handlers, version);
    this.#listening.set(endpoint, server);
    return server;
  }

  unlisten(server: SimulatedServer): void {
    if (this.#listening.get(server.endpoint) === server) this.#listening.delete(server.endpoint);
  }

  /** How a process connects. refusal: thrown instead, when it gives something. */
  connector(process: SimulatedProcess, opened: (client: SimulatedClient) => void, refusal: () => Error | null): Connect {
    return (endpoint, handlers) => {
      const error = refusal();
      if (error !== null) throw error;
      const client = new SimulatedClient(this, endpoint, process, handlers);
      opened(client);
      return client;
    };
  }

  nextConnection(): number {
    return ++this.#connections;
  }

  remember(message: Uint8Array): void {
    if (this.#latest.length < REPLAYED) this.#latest.push(message);
    else this.#latest[this.options.random.below(REPLAYED)] = message;
  }

  get latest(): readonly Uint8Array[] {
    return this.#latest;
  }
}

export interface ServerHandlers {
  readonly message: ServerHandler;
  readonly gone: (peer: Peer) => void;
}

interface Queued {
  readonly at: number;
  readonly message: Uint8Array;
}

/** A message that lies in a socket, unread. */
interface Unread {
  readonly connection: Connection;
  readonly message: Uint8Array;
}

/** One way of a connection: what is sent first arrives first, late maybe, until the connection breaks. */
class Direction {
  readonly #queue: Queued[] = [];
  #head = 0;
  #next: Due | null = null;
  #lastAt = 0;
  #closed = false;

  constructor(
    private readonly network: Network,
    private readonly path: Path,
    private readonly blockedUntil: () => number,
    private readonly arrived: (message: Uint8Array) => void,
    /** What is sent is not acknowledged for too long. */
    private readonly timedOut: () => void,
  ) {}

  get waiting(): number {
    return this.#queue.length - this.#head;
  }

  send(message: Uint8Array, from: number): void {
    if (this.#closed) return;
    const { random } = this.network.options;
    let at = from + this.path.delayMs + (this.path.jitterMs > 0 ? random.exponential(this.path.jitterMs) : 0);
    for (let again = RETRANSMIT_MS; random.chance(this.path.lossChance); again *= 2) at += again;
    this.#lastAt = Math.max(at, this.#lastAt);
    this.#queue.push({ at: this.#lastAt, message });
    if (this.#next === null) this.#expect(this.#lastAt);
  }

  close(): void {
    this.#closed = true;
    this.#queue.length = this.#head = 0;
    if (this.#next !== null) this.#next.call = null;
    this.#next = null;
  }

  #expect(at: number): void {
    this.#next = this.network.options.scheduler.at(at, () => this.#arrive());
  }

  #arrive(): void {
    const { scheduler, random } = this.network.options;
    this.#next = null;
    const first = this.#queue[this.#head] as Queued;
    const blockedUntil = this.blockedUntil();
    if (blockedUntil > scheduler.now) {
      const givenUpAt = first.at + SOCKET_LIMITS.tcpMaxRetransmitMs;
      if (scheduler.now >= givenUpAt) this.timedOut();
      else this.#expect(Math.min(blockedUntil + random.between(0, RETRANSMIT_MS), givenUpAt, scheduler.now + LOOK_AGAIN_MS));
      return;
    }
    this.#head++;
    if (this.#head === this.#queue.length) this.#queue.length = this.#head = 0;
    else this.#expect(Math.max(scheduler.now, (this.#queue[this.#head] as Queued).at));
    this.arrived(first.message);
  }
}

/** Between a client's socket and a server's. Each side learns of its end by itself. */
export class Connection {
  readonly number: number;
  readonly peer: Peer;
  readonly to: Direction;
  readonly from: Direction;
  #clientKnows = true;
  #serverKnows = true;
  #broken = false;
  #mute = false;

  constructor(
    readonly network: Network,
    readonly client: SimulatedClient,
    readonly server: SimulatedServer,
    readonly path: Path,
  ) {
    this.number = network.nextConnection();
    this.peer = `peer-${this.number}`;
    this.to = new Direction(
      network,
      path,
      () => path.toBlockedUntil,
      (message) => this.server.arrived({ connection: this, message }),
      () => this.#tellClient(0),
    );
    this.from = new Direction(
      network,
      path,
      () => path.fromBlockedUntil,
      (message) => this.client.arrived({ connection: this, message }),
      () => this.#forgetPeer(),
    );
  }

  /** As the client was told. */
  get lost(): boolean {
    return !this.#clientKnows;
  }

  sendToServer(message: Uint8Array, from: number): void {
    if (this.#broken && !this.#mute) {
      // A host that is gone acknowledges nothing; one that has forgotten the connection resets it.
      this.#tellClient(this.path.hostUp ? 2 * this.path.delayMs : SOCKET_LIMITS.tcpMaxRetransmitMs);
      return;
    }
    this.to.send(message, from);
  }

  sendToClient(message: Uint8Array, from: number): void {
    if (this.#broken && !this.#mute) {
      this.#forgetPeer();
      return;
    }
    this.from.send(message, from);
  }

  /** Something between has lost it, and acknowledges what comes all the same: nothing passes any more, not even an end. */
  mute(): void {
    this.#mute = true;
    this.to.close();
    this.from.close();
  }

  /** Reset by something between: what is in flight is lost, and both sides hear of it. */
  reset(): void {
    this.#break();
    this.#tellClient(this.path.delayMs);
    this.#forgetPeer();
  }

  /** The server's process has ended: its system says so, unless the host is gone too. */
  serverGone(): void {
    this.#serverKnows = false;
    this.to.close();
    if (this.#mute) return;
    if (this.path.hostUp) this.#later(this.path.delayMs, () => this.#endOfStream());
    else this.#break();
  }

  /** The client has closed its socket. */
  clientGone(): void {
    this.#clientKnows = false;
    this.from.close();
    if (!this.#mute) this.#later(this.path.delayMs, () => this.#closedByClient());
  }

  #later(ms: number, call: () => void): void {
    const { scheduler } = this.network.options;
    scheduler.at(scheduler.now + ms, call);
  }

  #closedByClient(): void {
    if (this.path.toBlockedUntil > this.network.options.scheduler.now) this.#later(LOOK_AGAIN_MS, () => this.#closedByClient());
    else {
      this.#forgetPeer();
      this.#break();
    }
  }

  /** What the server sent before arrives first. */
  #endOfStream(): void {
    if (this.#broken) this.#tellClient(0);
    else if (this.path.fromBlockedUntil > this.network.options.scheduler.now) this.#later(LOOK_AGAIN_MS, () => this.#endOfStream());
    else if (this.from.waiting > 0) this.#later(this.path.delayMs + 0.1, () => this.#endOfStream());
    else {
      this.#break();
      this.#tellClient(0);
    }
  }

  #break(): void {
    this.#broken = true;
    this.to.close();
    this.from.close();
  }

  #forgetPeer(): void {
    if (!this.#serverKnows) return;
    this.#serverKnows = false;
    this.server.forget(this);
  }

  #tellClient(inMs: number): void {
    if (!this.#clientKnows) return;
    this.#clientKnows = false;
    const { scheduler } = this.network.options;
    scheduler.at(scheduler.now + inMs, () => {
      this.#break();
      this.client.lost(this);
    });
  }
}

type Closed = 'closed';

/** A DEALER: connects, and connects again. */
export class SimulatedClient implements ClientTransport {
  #state: 'connecting' | 'up' | 'waiting' | Closed = 'connecting';
  #waitMs: number = SOCKET_LIMITS.reconnectMs;
  #connection: Connection | null = null;
  readonly #inbox: Unread[] = [];
  #reading = false;
  /** Changed with each attempt: what belongs to an earlier one is of no interest. */
  #attempt = 0;

  constructor(
    private readonly network: Network,
    readonly endpoint: string,
    private readonly process: SimulatedProcess,
    private readonly handlers: ClientHandlers,
  ) {
    this.#connect();
  }

  get closed(): boolean {
    return this.#state === 'closed';
  }

  get connection(): Connection | null {
    return this.#connection;
  }

  /** Whether it would take a message. */
  get takes(): boolean {
    const connection = this.#connection;
    if (this.#state !== 'up' || connection === null) return false;
    const { highWaterMark, scheduler } = this.network.options;
    return connection.to.waiting < highWaterMark && connection.path.refusingUntil <= scheduler.now;
  }

  send(message: Uint8Array): boolean {
    const connection = this.#connection;
    if (connection === null) return false;
    if (!this.takes) {
      this.network.options.observer.clientRefused(connection, message);
      return false;
    }
    const copy = Uint8Array.from(message);
    this.network.options.observer.clientSent(this, connection, copy);
    connection.sendToServer(copy, this.process.time);
    return true;
  }

  readWaiting(): void {
    if (this.network.options.sockets === 'native') while (this.#readOne());
  }

  async explain(): Promise<string | null> {
    const { random } = this.network.options;
    const reason = random.pick([null, 'ECONNREFUSED', 'ETIMEDOUT', 'EHOSTUNREACH']);
    return new Promise((resolve) => {
      this.process.at(this.process.time + random.magnitude(0.1, 500), 'sockets', () => resolve(reason));
    });
  }

  /** Events that are on their way are told nevertheless, as those of zeromq.js are. */
  close(): void {
    const [unread] = this.#inbox;
    const wasUp = this.#state === 'up';
    this.#state = 'closed';
    this.#inbox.length = 0;
    this.#connection?.clientGone();
    this.#connection = null;
    const laterMs = this.network.options.random.magnitude(0.01, MOST_LATE_MS);
    this.process.at(this.process.time + laterMs, 'sockets', () => {
      if (unread !== undefined) this.handlers.message(lend(unread.message));
      if (wasUp) this.handlers.down();
    });
  }

  arrived(unread: Unread): void {
    if (unread.connection !== this.#connection) return;
    this.#inbox.push(unread);
    this.#readLater();
  }

  lost(connection: Connection): void {
    this.process.perform('sockets', () => {
      if (connection !== this.#connection) return;
      // What came before is read first.
      while (this.#readOne());
      if (connection !== this.#connection) return;
      this.#connection = null;
      this.#reconnectLater();
      this.handlers.down();
    });
  }

  #readLater(): void {
    if (this.#reading) return;
    this.#reading = true;
    this.process.perform('sockets', () => this.#read());
  }

  #read(): void {
    const turn = this.network.options.sockets === 'native' ? TURN : 1;
    for (let message = 0; message < turn; message++) if (!this.#readOne()) break;
    this.#reading = false;
    if (this.#inbox.length === 0 || this.closed) return;
    this.#reading = true;
    this.process.at(this.process.time, 'sockets', () => this.#read());
  }

  #readOne(): boolean {
    const first = this.#inbox.shift();
    if (first === undefined || this.closed) return false;
    this.network.options.observer.clientReceived(this, first.connection, first.message);
    this.handlers.message(lend(first.message));
    return true;
  }

  #connect(): void {
    this.#state = 'connecting';
    const attempt = ++this.#attempt;
    const { scheduler } = this.network.options;
    const path = this.network.pathTo(this.endpoint);
    const startedAt = this.process.time;
    scheduler.at(startedAt + 2 * path.delayMs, () => this.#reach(path, attempt, startedAt));
  }

  #stale(attempt: number): boolean {
    return this.closed || attempt !== this.#attempt || !this.process.alive;
  }

  /** The first packet has come to the other side, or has not. */
  #reach(path: Path, attempt: number, startedAt: number): void {
    if (this.#stale(attempt)) return;
    const { scheduler } = this.network.options;
    const now = scheduler.now;
    if (!path.hostUp || path.toBlockedUntil > now || path.fromBlockedUntil > now) {
      scheduler.at(startedAt + SOCKET_LIMITS.connectMs, () => this.#unreachable(attempt));
      return;
    }
    const server = this.network.listener(this.endpoint);
    if (server === null) this.#unreachable(attempt);
    else if (server.stopped) {
      // The system accepts the connection, and nobody shakes hands.
      if (now - startedAt > SOCKET_LIMITS.handshakeMs) this.#unreachable(attempt);
      else scheduler.at(now + LOOK_AGAIN_MS, () => this.#reach(path, attempt, startedAt));
    } else this.#established(new Connection(this.network, this, server, path), attempt);
  }

  #established(connection: Connection, attempt: number): void {
    const { scheduler } = this.network.options;
    connection.server.accepted(connection);
    scheduler.at(scheduler.now + ESTABLISHED * connection.path.delayMs, () => {
      this.process.perform('sockets', () => {
        if (this.#stale(attempt)) {
          connection.reset();
          return;
        }
        // Lost meanwhile, before anybody was told that it is there.
        if (connection.lost) {
          this.#reconnectLater();
          this.handlers.unreachable();
          return;
        }
        this.#connection = connection;
        this.#state = 'up';
        this.#waitMs = SOCKET_LIMITS.reconnectMs;
        this.handlers.up();
      });
    });
  }

  #unreachable(attempt: number): void {
    this.process.perform('sockets', () => {
      if (this.#stale(attempt)) return;
      this.#reconnectLater();
      this.handlers.unreachable();
    });
  }

  #reconnectLater(): void {
    this.#state = 'waiting';
    const attempt = ++this.#attempt;
    this.process.at(this.process.time + this.#waitMs, 'timers', () => {
      if (!this.#stale(attempt)) this.#connect();
    });
    this.#waitMs = Math.min(2 * this.#waitMs, SOCKET_LIMITS.reconnectMaxMs);
  }
}

/** A ROUTER of one incarnation of a shard. */
export class SimulatedServer implements ServerTransport {
  readonly #peers = new Map<Peer, Connection>();
  /** Connections that there were. */
  readonly #ended = new Map<Peer, Connection>();
  readonly #inbox: Unread[] = [];
  #reading = false;
  #closed = false;
  /** Its process is stopped by a signal. */
  stopped = false;

  constructor(
    private readonly network: Network,
    readonly endpoint: string,
    readonly process: SimulatedProcess,
    private readonly handlers: ServerHandlers,
    /** That it served when it began to listen. */
    public version: number,
  ) {}

  get connections(): Iterable<Connection> {
    return this.#peers.values();
  }

  async send(peer: Peer, parts: readonly Uint8Array[]): Promise<boolean> {
    const connection = this.#peers.get(peer);
    const { highWaterMark, random, observer, sockets } = this.network.options;
    const ended = this.#ended.get(peer);
    if (ended !== undefined && sockets === 'zeromq.js') this.#tellGone(ended);
    if (connection === undefined || this.#closed || connection.from.waiting >= Math.max(highWaterMark, LEAST_ANSWERS)) return false;
    const message = new Uint8Array(Buffer.concat(parts));
    observer.serverSent(connection, message);
    if (isAnswer(message)) this.network.remember(message);
    const { path } = connection;
    const sent = random.chance(path.falseChance) ? falsify(message, random, [message, ...this.network.latest]) : message;
    if (sent !== message) path.liedAt = this.process.time;
    if (sent !== null) connection.sendToClient(sent, this.process.time);
    if (random.chance(path.replayChance))
      connection.sendToClient(random.pick([message, random.pick([message, ...this.network.latest])]), this.process.time);
    return true;
  }

  /** Queues are bounded by messages. */
  room(): number {
    return MAX_MESSAGE_BYTES;
  }

  peerCounts(): PeerCounts {
    return { ...NO_PEERS, connections: this.#peers.size };
  }

  serve(): void {}
  setClockOffset(): void {}

  served(): Record<string, number> {
    return {};
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.end();
  }

  /** The process is gone, or has closed its socket. */
  end(): void {
    this.network.unlisten(this);
    for (const connection of [...this.#peers.values()]) connection.serverGone();
    this.#peers.clear();
  }

  accepted(connection: Connection): void {
    this.#peers.set(connection.peer, connection);
  }

  forget(connection: Connection): void {
    const { random, sockets } = this.network.options;
    this.#peers.delete(connection.peer);
    this.#ended.set(connection.peer, connection);
    if (sockets === 'native') this.process.at(this.process.time + random.between(0, WATCH_MS), 'timers', () => this.#tellGone(connection));
  }

  #tellGone(connection: Connection): void {
    if (this.#closed) return;
    this.network.options.observer.peerGone(connection);
    this.handlers.gone(connection.peer);
  }

  arrived(unread: Unread): void {
    if (this.#closed || !this.process.alive) return;
    this.#inbox.push(unread);
    if (this.#reading) return;
    this.#reading = true;
    this.process.perform('sockets', () => this.#read());
  }

  #read(): void {
    const turn = this.network.options.sockets === 'native' ? TURN : 1;
    for (let message = 0; message < turn && !this.#closed; message++) {
      const first = this.#inbox.shift();
      if (first === undefined) break;
      const lent = lend(first.message);
      this.network.options.observer.serverReceived(first.connection, first.message, lent.bytes.buffer);
      this.handlers.message(first.connection.peer, lent);
    }
    this.#reading = false;
    if (this.#inbox.length === 0 || this.#closed) return;
    this.#reading = true;
    this.process.at(this.process.time, 'sockets', () => this.#read());
  }
}

/** pooled or error: what has the id of a request. */
function isAnswer(message: Uint8Array): boolean {
  const kind = kindOf(message);
  return kind === 'pooled' || kind === 'error';
}

/** As sockets lend what they received. */
function lend(message: Uint8Array): Lent {
  const lent = messageBuffers.take(message.byteLength);
  lent.bytes.set(message);
  return lent;
}
