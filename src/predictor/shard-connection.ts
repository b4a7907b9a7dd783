import type { SparseBatch } from '../engine/sparse-batch.js';
import { type ErrorCode, type ErrorDetails, TerabagError } from '../errors.js';
import { decodeClientMessage, decodeShardMessage, encodeClientMessage } from '../wire/codec.js';
import type { ShardMessage, ShardStats } from '../wire/messages.js';
import type { ClientHandlers, ClientTransport } from '../wire/transport.js';

/** How often a ready shard is asked for a sign of life, and after how long without one it counts as gone. */
const PING_MS = 250;
const SILENT_MS = 1500;
/** A shard that serves another model, or drains, is asked again after this. */
const HELLO_AGAIN_MS = 250;

interface Pending {
  readonly message: Buffer;
  readonly deadlineAt: number;
  readonly timer: NodeJS.Timeout;
  readonly resolve: (pooled: Uint8Array) => void;
  readonly reject: (error: TerabagError) => void;
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
  #heardAt = performance.now();
  readonly #pending = new Map<number, Pending>();
  readonly #statsWaiting = new Map<number, (stats: ShardStats) => void>();
  readonly #readyWaiting = new Set<() => void>();
  readonly #heartbeat: NodeJS.Timeout;
  readonly counts = { sent: 0, resent: 0, unmatched: 0, malformed: 0, lost: 0 };

  constructor(
    readonly name: string,
    readonly endpoint: string,
    private readonly modelHash: string,
    private readonly connect: Connect,
  ) {
    this.#why = this.#unavailable('has not answered yet');
    this.#transport = this.#open();
    this.#heartbeat = setInterval(() => this.#checkAlive(), PING_MS);
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

  /** Asks for pooled vectors; settles by the deadline (performance.now() time). The batch is encoded before it returns. */
  pool(batch: SparseBatch, deadlineAt: number): Promise<Uint8Array> {
    const id = this.#nextId++;
    const remainingMs = Math.max(0, deadlineAt - performance.now());
    const message = encodeClientMessage({ kind: 'pool', id, remainingMs, batch });
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pending.delete(id);
        reject(
          this.ready
            ? new TerabagError('deadline_exceeded', `shard did not answer by the deadline: ${this.name} at ${this.endpoint}`, {
                shard: this.name,
              })
            : this.#why,
        );
      }, remainingMs);
      this.#pending.set(id, { message, deadlineAt, timer, resolve, reject });
      if (this.ready) this.#send(message);
    });
  }

  stats(ms: number): Promise<ShardStats> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#statsWaiting.delete(id);
        reject(this.ready ? new TerabagError('deadline_exceeded', `shard sent no stats: ${this.name}`, { shard: this.name }) : this.#why);
      }, ms);
      this.#statsWaiting.set(id, (stats) => {
        clearTimeout(timer);
        resolve(stats);
      });
      this.#send(encodeClientMessage({ kind: 'stats', id }));
    });
  }

  close(): void {
    this.#state = 'closed';
    clearInterval(this.#heartbeat);
    for (const id of [...this.#pending.keys()]) this.#fail(id, new TerabagError('closed', 'the predictor is closed'));
    this.#transport.close();
  }

  #open(): ClientTransport {
    // Events of a transport that was replaced are not of interest.
    const current = (): boolean => this.#state !== 'closed' && this.#transport === transport;
    const transport = this.connect(this.endpoint, {
      up: () => current() && this.#hello(),
      down: () => current() && this.#down('closed the connection'),
      message: (bytes) => current() && this.#receive(bytes),
    });
    return transport;
  }

  #unavailable(what: string): TerabagError {
    return new TerabagError('shard_unavailable', `shard ${what}: ${this.name} at ${this.endpoint}`, {
      shard: this.name,
      endpoint: this.endpoint,
    });
  }

  #send(message: Uint8Array): void {
    this.counts.sent++;
    if (!this.#transport.send(message)) this.#down('takes no messages');
  }

  #hello(): void {
    this.#heardAt = performance.now();
    this.#transport.send(encodeClientMessage({ kind: 'hello', modelHash: this.modelHash }));
  }

  #down(what: string): void {
    if (this.#state === 'ready') this.counts.lost++;
    this.#state = 'connecting';
    this.#why = this.#unavailable(what);
  }

  #checkAlive(): void {
    if (!this.ready) return;
    if (performance.now() - this.#heardAt > SILENT_MS) {
      this.#down('fell silent');
      this.#transport.close();
      this.#transport = this.#open();
      return;
    }
    this.#send(encodeClientMessage({ kind: 'ping', id: this.#nextId++ }));
  }

  #receive(bytes: Uint8Array): void {
    let message: ShardMessage;
    try {
      message = decodeShardMessage(bytes);
    } catch {
      this.counts.malformed++;
      return;
    }
    this.#heardAt = performance.now();
    switch (message.kind) {
      case 'welcome':
        this.#welcome(message);
        return;
      case 'pooled': {
        const pending = this.#take(message.id);
        pending?.resolve(message.pooled);
        return;
      }
      case 'error':
        if (message.code === 'draining') this.#retryLater('drains');
        else
          this.#fail(
            message.id,
            new TerabagError(message.code as ErrorCode, message.message, { ...message.details, shard: this.name } as ErrorDetails),
          );
        return;
      case 'stats':
        this.#statsWaiting.get(message.id)?.(message.stats);
        this.#statsWaiting.delete(message.id);
        return;
      case 'pong':
        if (message.state === 'draining') this.#retryLater('drains');
    }
  }

  #welcome(message: Extract<ShardMessage, { kind: 'welcome' }>): void {
    if (message.modelHash !== this.modelHash || message.shard !== this.name) {
      this.#retryLater('serves something else');
      this.#why = new TerabagError(
        'model_mismatch',
        `shard serves another model or is another shard than the plan says: ${this.name} at ${this.endpoint} is ${message.shard}, model ${message.modelHash.slice(0, 12)}, expected ${this.modelHash.slice(0, 12)}`,
        { shard: this.name, endpoint: this.endpoint, modelHash: message.modelHash },
      );
      return;
    }
    if (message.state === 'draining') {
      this.#retryLater('drains');
      return;
    }
    this.#state = 'ready';
    for (const ready of this.#readyWaiting) ready();
    this.#readyWaiting.clear();
    this.#resend();
  }

  /** The deadline shrinks while a request waits, so that it is encoded anew. */
  #resend(): void {
    for (const [id, { message, deadlineAt }] of this.#pending) {
      const first = decodeClientMessage(message);
      if (first.kind !== 'pool') continue;
      this.counts.resent++;
      this.#send(encodeClientMessage({ kind: 'pool', id, remainingMs: Math.max(0, deadlineAt - performance.now()), batch: first.batch }));
    }
  }

  #retryLater(what: string): void {
    this.#down(what);
    setTimeout(() => this.#state === 'connecting' && this.#hello(), HELLO_AGAIN_MS).unref();
  }

  #take(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    if (pending === undefined) {
      this.counts.unmatched++;
      return undefined;
    }
    this.#pending.delete(id);
    clearTimeout(pending.timer);
    return pending;
  }

  #fail(id: number, error: TerabagError): void {
    this.#take(id)?.reject(error);
  }
}
