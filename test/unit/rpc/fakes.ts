import type { Clock } from '../../../src/clock.js';
import type { TerabagError } from '../../../src/errors.js';
import type { Connect } from '../../../src/rpc/client.js';
import { decodeClientMessage } from '../../../src/rpc/codec.js';
import type { ClientMessage, ShardMessage } from '../../../src/rpc/messages.js';
import type { EndpointSource } from '../../../src/rpc/replicas/endpoint-source.js';
import {
  type ClientHandlers,
  MAX_MESSAGE_BYTES,
  NO_PEERS,
  type PeerCounts,
  type ServerTransport,
} from '../../../src/rpc/transport/transport.js';
import { encodeShardMessage } from '../../reference/messages.js';

interface Timer {
  at: number;
  readonly every: number | null;
  readonly call: () => void;
}

/** A clock that stands still until it is told to go on. */
export class FakeClock implements Clock {
  #now = 1000;
  readonly #timers = new Set<Timer>();
  readonly #afterPolling: (() => void)[] = [];
  /** What happens in a poll of sockets, between due timers and what waits for the end of the poll. */
  onPoll: () => void = () => undefined;

  now(): number {
    return this.#now;
  }

  after(ms: number, call: () => void): () => void {
    return this.#add({ at: this.#now + ms, every: null, call });
  }

  every(ms: number, call: () => void): () => void {
    return this.#add({ at: this.#now + ms, every: ms, call });
  }

  afterPolling(call: () => void): void {
    this.#afterPolling.push(call);
  }

  get numTimers(): number {
    return this.#timers.size;
  }

  #add(timer: Timer): () => void {
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  /** Time passes, and timers are due one after another, each at its time. */
  pass(ms: number): void {
    const end = this.#now + ms;
    for (;;) {
      const [next] = [...this.#timers].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at);
      if (next === undefined) break;
      this.#now = Math.max(this.#now, next.at);
      this.#run(next);
      this.#poll();
    }
    this.#now = end;
  }

  /** The event loop stands still for so long: then all due timers are called, and sockets are polled afterwards. */
  block(ms: number): void {
    this.#now += ms;
    for (const timer of [...this.#timers].filter(({ at }) => at <= this.#now).sort((a, b) => a.at - b.at)) this.#run(timer);
    this.#poll();
  }

  #run(timer: Timer): void {
    if (timer.every === null) this.#timers.delete(timer);
    else timer.at += timer.every;
    timer.call();
  }

  #poll(): void {
    this.onPoll();
    for (const call of this.#afterPolling.splice(0)) call();
  }
}

/** A transport whose other end is the test. */
export class FakeConnection {
  /** What the client sent, in order. */
  readonly sent: ClientMessage[] = [];
  /** Messages that the socket takes before its queue is full. */
  room = Number.POSITIVE_INFINITY;
  /** Answers that lie in the socket, unread. */
  readonly unread: ShardMessage[] = [];
  handlers!: ClientHandlers;
  opened = 0;
  closed = 0;
  /** Thrown by the next attempts to open. */
  refusal: Error | null = null;
  reason: string | null = null;

  readonly connect: Connect = (_, handlers) => {
    if (this.refusal !== null) throw this.refusal;
    this.opened++;
    this.handlers = handlers;
    return {
      send: (message) => {
        if (this.room <= 0) return false;
        this.room--;
        this.sent.push(decodeClientMessage(Buffer.from(message)));
        return true;
      },
      readWaiting: () => this.deliver(),
      explain: async () => this.reason,
      close: () => this.closed++,
    };
  };

  deliver(): void {
    for (const message of this.unread.splice(0)) this.receive(message);
  }

  receive(message: ShardMessage): void {
    this.receiveBytes(encodeShardMessage(message));
  }

  receiveBytes(bytes: Uint8Array): void {
    // Whoever reads it after its release reads this.
    const own = Uint8Array.from(bytes);
    this.handlers.message({ bytes: own, release: () => own.fill(0xd7) });
  }

  /** Takes what was sent of a kind. */
  sentOf<K extends ClientMessage['kind']>(kind: K): Extract<ClientMessage, { kind: K }>[] {
    return this.sent.filter((message) => message.kind === kind) as Extract<ClientMessage, { kind: K }>[];
  }
}

/** Transports to several endpoints, whose other ends are the test. */
export class FakeConnections {
  readonly #connections = new Map<string, FakeConnection>();

  readonly connect: Connect = (endpoint, handlers) => this.to(endpoint).connect(endpoint, handlers);

  to(endpoint: string): FakeConnection {
    let connection = this.#connections.get(endpoint);
    if (connection === undefined) {
      connection = new FakeConnection();
      this.#connections.set(endpoint, connection);
    }
    return connection;
  }

  deliver(): void {
    for (const connection of this.#connections.values()) connection.deliver();
  }
}

/** Endpoints that the test changes. */
export class FakeEndpoints implements EndpointSource {
  addresses: readonly string[];
  problem: TerabagError | null = null;
  refreshes = 0;
  closed = 0;
  #changed: () => void = () => undefined;

  constructor(addresses: readonly string[]) {
    this.addresses = addresses;
  }
  watch(changed: () => void): void {
    this.#changed = changed;
  }
  change(addresses: readonly string[]): void {
    this.addresses = addresses;
    this.#changed();
  }
  refresh(): void {
    this.refreshes++;
  }
  close(): void {
    this.closed++;
  }
}

/** A server's transport whose answers are kept. */
export class FakeServerTransport implements ServerTransport {
  roomLeft = MAX_MESSAGE_BYTES;
  readonly endpoint = 'tcp://127.0.0.1:1';
  readonly answers: { readonly peer: string; readonly bytes: Buffer }[] = [];
  readonly offsets = new Map<string, number>();
  closed = 0;

  async send(peer: string, parts: readonly Uint8Array[]): Promise<boolean> {
    this.answers.push({ peer, bytes: Buffer.concat(parts) });
    return true;
  }
  serve(): void {}
  setClockOffset(peer: string, offsetMs: number): void {
    this.offsets.set(peer, offsetMs);
  }
  served(): Record<string, number> {
    return {};
  }
  room(): number {
    return this.roomLeft;
  }
  peerCounts(): PeerCounts {
    return NO_PEERS;
  }
  async close(): Promise<void> {
    this.closed++;
  }
}
