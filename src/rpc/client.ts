import type { SparseBatch } from '../engine/sparse-batch.js';
import { type ErrorCode, type ErrorDetails, TerabagError } from '../errors.js';
import type { RpcSpan } from '../observe/spans.js';
import { clientMessageParts, decodeClientMessage, decodeShardMessage, encodeClientMessage } from './codec.js';
import type { ShardMessage, ShardStats } from './messages.js';
import { type Lent, messageBuffers } from './transport/buffer-pool.js';
import { type ClientHandlers, type ClientTransport, MAX_MESSAGE_BYTES } from './transport/transport.js';

/** A ready shard is asked for a sign of life this often; one that is not (yet, or not any more) is greeted again this often. */
const BEAT_MS = 250;
/** After so many beats without a message the shard counts as gone. Beats, not time: in a blocked event loop nobody is heard. */
const SILENT_BEATS = 6;
/** Why a shard may refuse a request; another word in an error message is not passed on to programs that test for codes. */
const SHARD_CODES: ReadonlySet<string> = new Set<ErrorCode>([
  'invalid_argument',
  'index_out_of_range',
  'bad_offsets',
  'bad_message',
  'deadline_exceeded',
  'overloaded',
  'closed',
  'internal',
]);

/** Pooled vectors, in the message that brought them: to be released when they are read. */
export interface Answer {
  readonly pooled: Uint8Array;
  readonly message: Lent;
}

interface Pending {
  readonly message: Lent;
  readonly deadlineAt: number;
  readonly timer: NodeJS.Timeout;
  /** Stops listening to the signal. */
  readonly forget: () => void;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: TerabagError) => void;
  readonly rpc: RpcSpan | null;
}

export interface PoolOptions {
  readonly deadlineAt: number;
  readonly signal?: AbortSignal | null;
  readonly rpc?: RpcSpan | null;
}

export type Connect = (endpoint: string, handlers: ClientHandlers) => ClientTransport;

/**
 * The main shard's end of one sparse shard. A request is sent when the shard is ready and, since pooling changes nothing, sent again when
 * the shard comes back before the deadline; at the deadline it fails with the reason.
 */
export class ShardConnection {
  #transport: ClientTransport;
  #state: 'connecting' | 'ready' | 'closed' = 'connecting';
  #why: TerabagError;
  #nextId = Math.floor(Math.random() * 2 ** 40);
  #silentBeats = 0;
  readonly #pending = new Map<number, Pending>();
  readonly #statsWaiting = new Map<number, { resolve: (stats: ShardStats) => void; reject: (error: TerabagError) => void }>();
  readonly #readyWaiting = new Set<() => void>();
  readonly #heartbeat: NodeJS.Timeout;
  /** sent, resent: requests to pool. Bytes are those of whole messages, without what the transport adds; of requests to pool and their answers. */
  readonly counts = { sent: 0, resent: 0, bytesSent: 0, bytesReceived: 0, unmatched: 0, malformed: 0, lost: 0 };

  constructor(
    readonly name: string,
    readonly endpoint: string,
    private readonly modelHash: string,
    private readonly connect: Connect,
  ) {
    this.#why = this.#unavailable('has not answered yet');
    this.#transport = this.#open();
    // What waits for an answer has a timer of its own: a process without other work ends.
    this.#heartbeat = setInterval(() => this.#beat(), BEAT_MS).unref();
  }

  get ready(): boolean {
    return this.#state === 'ready';
  }

  /** Resolves when the shard is ready, rejects with the reason after ms. */
  whenReady(ms: number): Promise<void> {
    if (this.ready) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const done = (): void => {
        clearTimeout(timer);
        resolve();
      };
      const timer = setTimeout(() => {
        this.#readyWaiting.delete(done);
        reject(this.#why);
      }, ms);
      this.#readyWaiting.add(done);
    });
  }

  /**
   * Asks for pooled vectors; settles by the deadline (performance.now() time), or at once with code aborted when the signal is. The batch is encoded
   * before it returns.
   */
  pool(batch: SparseBatch, { deadlineAt, signal = null, rpc = null }: PoolOptions): Promise<Answer> {
    const id = this.#nextId++;
    const remainingMs = (): number => Math.max(0, deadlineAt - performance.now());
    return new Promise((resolve, reject) => {
      if (this.#state === 'closed') throw this.#why;
      const parts = clientMessageParts({ kind: 'pool', id, remainingMs: remainingMs(), batch, timed: rpc !== null });
      const bytes = parts.reduce((sum, { byteLength }) => sum + byteLength, 0);
      // A peer closes the connection on a longer message, and with it every request in flight.
      if (bytes > MAX_MESSAGE_BYTES) {
        throw new TerabagError(
          'invalid_argument',
          `request is too long for shard: ${this.name}, ${bytes} bytes, limit ${MAX_MESSAGE_BYTES}`,
          {
            shard: this.name,
            bytes,
          },
        );
      }
      const message = messageBuffers.take(bytes);
      copyParts(parts, message.bytes);
      rpc?.serialized();
      // A moment before the deadline of the whole request, whose error would not name the shard.
      const timer = setTimeout(() => {
        const late = `shard did not answer by the deadline: ${this.name} at ${this.endpoint}`;
        this.#fail(id, this.ready ? new TerabagError('deadline_exceeded', late, { shard: this.name }) : this.#why);
      }, remainingMs() - 1);
      const onAbort = (): void =>
        this.#fail(
          id,
          new TerabagError('aborted', `the request was aborted: ${this.name}`, { shard: this.name }, { cause: signal?.reason }),
        );
      signal?.addEventListener('abort', onAbort, { once: true });
      const forget = (): void => signal?.removeEventListener('abort', onAbort);
      this.#pending.set(id, { message, deadlineAt, timer, forget, resolve, reject, rpc });
      rpc?.hold();
      if (this.ready) this.#sendPool(message.bytes, rpc);
    });
  }

  /** What the shard says of itself; rejects at once with the reason when it is away. */
  stats(ms: number): Promise<ShardStats> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      if (!this.ready) throw this.#why;
      const timer = setTimeout(() => {
        this.#statsWaiting.delete(id);
        reject(this.ready ? new TerabagError('deadline_exceeded', `shard sent no stats: ${this.name}`, { shard: this.name }) : this.#why);
      }, ms);
      const settle = (end: () => void): void => {
        clearTimeout(timer);
        this.#statsWaiting.delete(id);
        end();
      };
      this.#statsWaiting.set(id, {
        resolve: (stats) => settle(() => resolve(stats)),
        reject: (error) => settle(() => reject(error)),
      });
      this.#send(encodeClientMessage({ kind: 'stats', id }));
    });
  }

  close(): void {
    this.#state = 'closed';
    this.#why = new TerabagError('closed', 'the predictor is closed');
    clearInterval(this.#heartbeat);
    for (const id of [...this.#pending.keys()]) this.#fail(id, this.#why);
    for (const waiting of [...this.#statsWaiting.values()]) waiting.reject(this.#why);
    this.#transport.close();
  }

  #open(): ClientTransport {
    // Events of a transport that was replaced are not of interest.
    const current = (): boolean => this.#state !== 'closed' && this.#transport === transport;
    const transport = this.connect(this.endpoint, {
      up: () => current() && this.#hello(),
      down: () => current() && this.#down('closed the connection'),
      message: (message) => (current() ? this.#receive(message) : message.release()),
    });
    return transport;
  }

  #unavailable(what: string): TerabagError {
    return new TerabagError('shard_unavailable', `shard ${what}: ${this.name} at ${this.endpoint}`, {
      shard: this.name,
      endpoint: this.endpoint,
    });
  }

  #sendPool(message: Uint8Array, rpc: RpcSpan | null): void {
    this.counts.sent++;
    this.counts.bytesSent += message.byteLength;
    this.#send(message);
    rpc?.sent();
  }

  #send(message: Uint8Array): void {
    if (!this.#transport.send(message)) this.#down('takes no messages');
  }

  #hello(): void {
    this.#transport.send(encodeClientMessage({ kind: 'hello', modelHash: this.modelHash }));
  }

  #down(what: string): void {
    if (this.#state === 'closed') return;
    if (this.#state === 'ready') this.counts.lost++;
    this.#state = 'connecting';
    this.#why = this.#unavailable(what);
  }

  #beat(): void {
    if (!this.ready) {
      this.#hello();
      return;
    }
    if (this.#silentBeats++ >= SILENT_BEATS) {
      this.#down('fell silent');
      this.#transport.close();
      this.#transport = this.#open();
      return;
    }
    this.#send(encodeClientMessage({ kind: 'ping', id: this.#nextId++ }));
  }

  #receive(received: Lent): void {
    const receivedAt = performance.now();
    let message: ShardMessage;
    try {
      message = decodeShardMessage(received.bytes);
    } catch {
      this.counts.malformed++;
      received.release();
      return;
    }
    this.#silentBeats = 0;
    if (message.kind === 'pooled') {
      this.counts.bytesReceived += received.bytes.byteLength;
      const pending = this.#take(message.id);
      if (pending === undefined) received.release();
      pending?.rpc?.answered(receivedAt, message.stages);
      pending?.resolve({ pooled: message.pooled, message: received });
      return;
    }
    received.release();
    switch (message.kind) {
      case 'welcome':
        this.#welcome(message);
        return;
      case 'error':
        // The request stays pending: the shard that takes its place may answer in time.
        if (message.code === 'draining') this.#down('drains');
        else {
          const code = SHARD_CODES.has(message.code) ? (message.code as ErrorCode) : 'internal';
          const details: ErrorDetails = { ...message.details, shard: this.name };
          this.#fail(message.id, new TerabagError(code, message.message, details));
        }
        return;
      case 'stats': {
        const waiting = this.#statsWaiting.get(message.id);
        if (waiting === undefined) this.counts.unmatched++;
        else waiting.resolve(message.stats);
        return;
      }
      case 'pong':
        if (message.state === 'draining') this.#down('drains');
    }
  }

  #welcome(message: Extract<ShardMessage, { kind: 'welcome' }>): void {
    if (message.modelHash !== this.modelHash || message.shard !== this.name) {
      this.#down('serves something else');
      this.#why = new TerabagError(
        'model_mismatch',
        `shard serves another model or is another shard than the plan says: ${this.name} at ${this.endpoint} is ${message.shard}, model ${message.modelHash.slice(0, 12)}, expected ${this.modelHash.slice(0, 12)}`,
        { shard: this.name, endpoint: this.endpoint, modelHash: message.modelHash },
      );
      return;
    }
    if (message.state === 'draining') {
      this.#down('drains');
      return;
    }
    // A second greeting may have crossed the first answer: what was sent since is not sent again.
    if (this.ready) return;
    this.#state = 'ready';
    for (const ready of this.#readyWaiting) ready();
    this.#readyWaiting.clear();
    this.#resend();
  }

  /** The deadline shrinks while a request waits, so that it is encoded anew. */
  #resend(): void {
    for (const { message, deadlineAt, rpc } of this.#pending.values()) {
      const first = decodeClientMessage(message.bytes);
      if (first.kind !== 'pool') continue;
      this.counts.resent++;
      this.#sendPool(encodeClientMessage({ ...first, remainingMs: Math.max(0, deadlineAt - performance.now()) }), rpc);
    }
  }

  #take(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    if (pending === undefined) {
      this.counts.unmatched++;
      return undefined;
    }
    this.#pending.delete(id);
    clearTimeout(pending.timer);
    pending.forget();
    pending.message.release();
    pending.rpc?.letGo();
    return pending;
  }

  #fail(id: number, error: TerabagError): void {
    this.#take(id)?.reject(error);
  }
}

function copyParts(parts: readonly Uint8Array[], into: Uint8Array): void {
  let at = 0;
  for (const part of parts) {
    into.set(part, at);
    at += part.byteLength;
  }
}
