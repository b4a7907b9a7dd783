import type { SparseBatch } from '../../src/engine/sparse-batch.js';
import { TerabagError } from '../../src/errors.js';
import { decodeClientMessage, decodeShardMessage } from '../../src/rpc/codec.js';
import type { ClientMessage, ShardMessage } from '../../src/rpc/messages.js';
import { type ServedVersion, sameStamp, sameVersion } from '../../src/rpc/version.js';
import { type Kind, kindOf } from './message-kind.js';
import type { Connection, NetworkObserver, SimulatedClient } from './network.js';
import type { SimulatedProcess } from './process.js';
import { firstId, type Replica } from './replica.js';
import type { Trace } from './trace.js';
import type { Violations } from './violations.js';

/** A shard is told of queueing only as far as it can see it. */
const EXPIRED_SLACK_MS = 2;

/** What cannot be read may still say which request it is about. */
function decodedOf(message: Uint8Array): ShardMessage | { readonly kind: 'unread'; readonly id: unknown } {
  try {
    return decodeShardMessage(message);
  } catch (error) {
    return { kind: 'unread', id: TerabagError.from(error).details['id'] };
  }
}

/** One message that asks a shard to pool, until its answer. */
interface Asked {
  readonly request: number;
  /** What the shard takes for the way of a message: it knows no shorter one when this arrives. */
  readonly leastMs: number;
  state: 'received' | 'begun' | 'cancelled' | 'answered';
}

/** What was seen of one connection. */
interface Seen {
  /** The shard said who it is, and it is the expected one. */
  welcomed: boolean;
  /** The least time that a message took to the server. */
  leastMs: number;
  readonly asked: Map<number, Asked>;
  /** What the client waits for: ids by request, and requests by id. */
  readonly open: Map<number, number>;
  readonly requests: Map<number, number>;
}

/** What one client did, by the names of its counters. */
export interface ClientTotals {
  sent: number;
  cancelled: number;
  bytesSent: number;
  bytesReceived: number;
  malformed: number;
}

/** Of one client: what it does beyond asking once. */
interface Books {
  /** Requests that were sent before. */
  again: number;
  /** Of these, since the shard had not begun and did not want to. */
  refused: number;
}

/** Codes of shards that have done nothing for a request. */
const UNDONE: ReadonlySet<string> = new Set(['draining', 'closed']);
/** The retry budget that is promised: what a client may save up, what it gets a second, and for each request. */
const RETRIES_SAVED = 30;
const RETRIES_PER_SECOND = 3;
const RETRIES_PER_REQUEST = 0.2;

export interface AccountsOptions {
  /** Of a shard. */
  readonly maxInFlight: number;
  /** What main expects. */
  readonly version: ServedVersion;
  readonly stamp: Uint8Array;
  readonly now: () => number;
  /** Requests that a client was asked for. */
  readonly asked: (shard: number) => number;
  /** Requests that were sent again since a replica came back where there was none, as the client counts them. */
  readonly resent: (shard: number) => number;
  readonly violations: Violations;
  readonly trace: Trace;
  readonly main: () => SimulatedProcess;
  /** The virtual time at which a request has to end. */
  readonly deadlineOf: (request: number) => number;
  readonly clientOf: (client: SimulatedClient) => number;
  readonly shards: number;
}

/** The simulator's own books on all messages. */
export class Accounts implements NetworkObserver {
  readonly totals: ClientTotals[];
  readonly #attempts = new Map<number, Connection[]>();
  readonly #books: Books[];
  messages = 0;
  /** Messages on their way: each is decoded once. */
  readonly #decoded = new WeakMap<Uint8Array, ClientMessage>();
  readonly #toClient = new WeakMap<Uint8Array, ShardMessage>();
  readonly #seen = new WeakMap<Connection, Seen>();
  /** By the memory that a shard reads a request from: of equal requests, it tells which one a shard begins with. */
  readonly #askedIn = new WeakMap<ArrayBufferLike, Asked>();

  constructor(private readonly options: AccountsOptions) {
    this.totals = Array.from({ length: options.shards }, () => ({ sent: 0, cancelled: 0, bytesSent: 0, bytesReceived: 0, malformed: 0 }));
    this.#books = Array.from({ length: options.shards }, () => ({ again: 0, refused: 0 }));
  }

  clientSent(client: SimulatedClient, connection: Connection, message: Uint8Array): void {
    const kind = kindOf(message);
    const totals = this.#totalsOf(client);
    this.#count(`${connection.number}>`, kind, message);
    if (kind !== 'pool' && kind !== 'cancel') return;
    const decoded = this.#toServer(message);
    if (decoded.kind === 'cancel') {
      totals.cancelled++;
      this.#over(connection, decoded.id);
    }
    if (decoded.kind !== 'pool') return;
    const request = firstId(decoded.batch);
    totals.sent++;
    totals.bytesSent += message.byteLength;
    const seen = this.#seenOf(connection);
    this.#checkAttempt(this.options.clientOf(client), request);
    this.options.violations.hold(
      'one-replica',
      !seen.open.has(request),
      () => `request ${request} is sent to ${connection.server.process.name} again, which has it still`,
    );
    this.#connectionsOf(request).push(connection);
    this.options.violations.hold(
      'epoch',
      seen.welcomed,
      () => `request ${request} is sent to ${connection.server.process.name}, which has not said that it serves the expected version`,
    );
    seen.open.set(request, decoded.id);
    seen.requests.set(decoded.id, request);
  }

  /** A request is sent once more, or for the first time. */
  #checkAttempt(shard: number, request: number): void {
    const books = this.#books[shard] as Books;
    if (!this.#attempts.has(request)) return;
    books.again++;
    const { violations, now, resent, asked } = this.options;
    const spent = books.again - resent(shard) - books.refused;
    const allowed = RETRIES_SAVED + (RETRIES_PER_SECOND * now()) / 1000 + RETRIES_PER_REQUEST * asked(shard);
    violations.hold(
      'budget',
      spent <= allowed + 1,
      () => `shard ${shard} is asked ${spent} times more than ${asked(shard)} requests allow`,
    );
  }

  /** The shard serves another version: nothing that it was asked for is waited for any more. */
  #tellsOfAnother(connection: Connection, message: ShardMessage): boolean {
    const { requests } = this.#seenOf(connection);
    const { stamp, version } = this.options;
    switch (message.kind) {
      case 'pooled':
        return requests.has(message.id) && !sameStamp(message.stamp, stamp);
      case 'pong':
      case 'stats':
        return !sameStamp(message.stamp, stamp);
      case 'welcome':
        return !sameVersion(message.version, version);
      case 'error':
        return message.code === 'version_skew' && requests.has(message.id);
    }
  }

  #endSession(connection: Connection): void {
    const { open, requests } = this.#seenOf(connection);
    open.clear();
    requests.clear();
  }

  #connectionsOf(request: number): Connection[] {
    let connections = this.#attempts.get(request);
    if (connections === undefined) {
      connections = [];
      this.#attempts.set(request, connections);
    }
    return connections;
  }

  /** A request has ended: whoever has it still is to know. */
  ended(request: number): void {
    for (const connection of this.#attempts.get(request) ?? []) {
      const { open } = this.#seenOf(connection);
      const told = !open.has(request) || connection.client.connection !== connection;
      this.options.violations.hold('spared', told, () => `${connection.server.process.name} is not told that request ${request} has ended`);
    }
  }

  /** Of an attempt that is over on this connection, as the client knows. */
  #over(connection: Connection, id: number): void {
    const seen = this.#seenOf(connection);
    const request = seen.requests.get(id);
    if (request === undefined) return;
    seen.requests.delete(id);
    if (seen.open.get(request) === id) seen.open.delete(request);
  }

  /** A cancel is not offered again. */
  clientRefused(connection: Connection, message: Uint8Array): void {
    if (kindOf(message) !== 'cancel') return;
    const decoded = decodeClientMessage(message);
    if (decoded.kind === 'cancel') this.#over(connection, decoded.id);
  }

  clientReceived(client: SimulatedClient, connection: Connection, message: Uint8Array): void {
    this.#count(`>${connection.number}`, kindOf(message), message);
    const decoded = this.#toClient.get(message) ?? decodedOf(message);
    const totals = this.#totalsOf(client);
    if (decoded.kind === 'unread') totals.malformed++;
    if (decoded.kind === 'pooled') totals.bytesReceived += message.byteLength;
    const books = this.#books[this.options.clientOf(client)] as Books;
    if (decoded.kind === 'error' && UNDONE.has(decoded.code) && this.#seenOf(connection).requests.has(decoded.id)) books.refused++;
    if (decoded.kind !== 'unread' && this.#tellsOfAnother(connection, decoded)) this.#endSession(connection);
    if ('id' in decoded && typeof decoded.id === 'number') this.#over(connection, decoded.id);
    if (decoded.kind !== 'welcome') return;
    this.#seenOf(connection).welcomed = decoded.state === 'ready' && connection.server.version === 0;
  }

  serverReceived(connection: Connection, message: Uint8Array, memory: ArrayBufferLike): void {
    this.#count(`${connection.number}]`, kindOf(message), message);
    const decoded = this.#toServer(message);
    const seen = this.#seenOf(connection);
    if ('sentAtMs' in decoded) {
      const { time } = connection.server.process;
      seen.leastMs = Math.min(seen.leastMs, time - this.options.main().globalAt(decoded.sentAtMs));
    }
    if (decoded.kind === 'pool') {
      const asked: Asked = { request: firstId(decoded.batch), leastMs: seen.leastMs, state: 'received' };
      seen.asked.set(decoded.id, asked);
      this.#askedIn.set(memory, asked);
    }
    if (decoded.kind !== 'cancel') return;
    const asked = seen.asked.get(decoded.id);
    if (asked !== undefined) this.#drops(asked);
    seen.asked.delete(decoded.id);
  }

  peerGone(connection: Connection): void {
    this.options.trace.add(`${connection.number}]`, 'gone');
    const { asked } = this.#seenOf(connection);
    for (const each of asked.values()) this.#drops(each);
    asked.clear();
  }

  /** Nobody waits for it. */
  #drops(asked: Asked): void {
    if (asked.state === 'received') asked.state = 'cancelled';
  }

  serverSent(connection: Connection, message: Uint8Array): void {
    const kind = kindOf(message);
    this.#count(`[${connection.number}`, kind, message);
    if (kind !== 'pooled' && kind !== 'error') return;
    const decoded = decodeShardMessage(message);
    this.#toClient.set(message, decoded);
    if (decoded.kind !== 'pooled' && decoded.kind !== 'error') return;
    const { asked } = this.#seenOf(connection);
    const found = asked.get(decoded.id);
    this.options.violations.hold(
      'one-answer',
      found !== undefined,
      () => `${connection.server.process.name} answers ${decoded.id}, which was not asked, was answered before, or was cancelled`,
    );
    if (found === undefined) return;
    this.options.violations.hold(
      'one-answer',
      decoded.kind === 'error' || found.state === 'begun',
      () => `${connection.server.process.name} answers ${decoded.id} with vectors that it has not pooled`,
    );
    found.state = 'answered';
    asked.delete(decoded.id);
  }

  /** A shard begins to pool. */
  begins({ process, server }: Pick<Replica, 'process' | 'server'>, { indices }: Pick<SparseBatch, 'indices'>): void {
    if (process === null || server === null) return;
    const { inFlight } = server.counts;
    this.options.violations.hold(
      'queue',
      inFlight <= this.options.maxInFlight,
      () => `${process.name} holds more requests than it may: ${inFlight}`,
    );
    const found = this.#askedIn.get(indices.buffer);
    const request = found?.request ?? firstId({ indices });
    const { violations, trace, deadlineOf } = this.options;
    trace.add(process.name, 'pools', request);
    violations.hold(
      'cancelled',
      found?.state === 'received',
      () => `${process.name} pools request ${request}, which is ${found?.state ?? 'not asked for'} there`,
    );
    if (found === undefined) return;
    found.state = 'begun';
    const late = process.lateBy(deadlineOf(request) + found.leastMs);
    violations.hold('expired', late <= EXPIRED_SLACK_MS, () => `${process.name} pools request ${request}, ${late} ms after its deadline`);
  }

  #toServer(message: Uint8Array): ClientMessage {
    let decoded = this.#decoded.get(message);
    if (decoded === undefined) {
      decoded = decodeClientMessage(message);
      this.#decoded.set(message, decoded);
    }
    return decoded;
  }

  #count(where: string, kind: Kind | null, message: Uint8Array): void {
    this.messages++;
    this.options.trace.add(where, kind ?? 'garbage', message.byteLength);
  }

  #totalsOf(client: SimulatedClient): ClientTotals {
    return this.totals[this.options.clientOf(client)] as ClientTotals;
  }

  #seenOf(connection: Connection): Seen {
    let seen = this.#seen.get(connection);
    if (seen === undefined) {
      seen = { welcomed: false, leastMs: Number.POSITIVE_INFINITY, asked: new Map(), open: new Map(), requests: new Map() };
      this.#seen.set(connection, seen);
    }
    return seen;
  }
}
