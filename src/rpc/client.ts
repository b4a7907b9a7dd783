import { type Clock, systemClock } from '../clock.js';
import { poolAlike } from '../engine/kernels.js';
import { native } from '../engine/native.js';
import type { SparseBatch } from '../engine/sparse-batch.js';
import { type ErrorCode, type ErrorDetails, TerabagError } from '../errors.js';
import { RPC_COUNTERS, type RpcCounts } from '../observe/counters.js';
import type { RpcSpan } from '../observe/spans.js';
import { clientMessageParts, decodeClientMessage, decodeShardMessage, encodeClientMessage } from './codec.js';
import type { ShardMessage } from './messages.js';
import type { ShardStats } from './shard-stats.js';
import { type Lent, messageBuffers } from './transport/buffer-pool.js';
import { type ClientHandlers, type ClientTransport, MAX_MESSAGE_BYTES } from './transport/transport.js';
import { type ServedVersion, sameStamp, sameVersion, shownStamp, shownVersion, stampOf } from './version.js';
import { Waiters } from './waiters.js';

/** A ready shard gets a heartbeat this often; one that is not (yet, or not any more) is greeted again this often. */
const BEAT_MS = 250;
/** After so many heartbeats without a message the shard counts as gone. Heartbeats, not time: in a blocked event loop nobody is heard. */
const SILENT_BEATS = 6;
/** A message that the transport refused (its queue is full) is offered again after so long, and when the shard sends something. */
const RETRY_MS = 2;
/** Requests to shards end a moment before the whole request does, whose error would not name the shard. */
const EARLY_MS = 1;
/** Less than that, a timer is late on any machine. */
const LATE_MS = 5;
/** How long what the system says of an endpoint is waited for between two attempts to find it out. */
const EXPLAIN_MS = 2000;
/** Why a shard may refuse a request; another word in an error message is not passed on to programs that test for codes. */
const SHARD_CODES: ReadonlySet<string> = new Set<ErrorCode>([
  'invalid_argument',
  'index_out_of_range',
  'bad_offsets',
  'bad_message',
  'deadline_exceeded',
  'overloaded',
  'version_skew',
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
  readonly answerBytes: number;
  readonly deadlineAt: number;
  readonly cancelTimer: () => void;
  /** Stops listening to the signal. */
  readonly forget: () => void;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: TerabagError) => void;
  readonly rpc: RpcSpan | null;
  /** Whether the transport of now has it. */
  sent: boolean;
}

export interface PoolOptions {
  /** performance.now() time. */
  readonly deadlineAt: number;
  /** What the vectors have to take: an answer of another length is none. */
  readonly answerBytes: number;
  readonly signal?: AbortSignal | null;
  readonly rpc?: RpcSpan | null;
}

/** Opens a transport to an endpoint; throws a TerabagError when the endpoint cannot be used. */
export type Connect = (endpoint: string, handlers: ClientHandlers) => ClientTransport;

/** What a client expects of the shard behind an endpoint. */
export interface ExpectedShard {
  readonly name: string;
  /** Where it listens; the first is used. */
  readonly endpoints: readonly string[];
  readonly version: ServedVersion;
  /** Kernels of this process: bits depend on them. */
  readonly kernels: string;
}

/**
 * The main shard's end of one sparse shard. A request is sent when the shard is ready and, since pooling changes nothing, sent again when
 * the shard comes back before the deadline; at the deadline it fails with the reason. A request that ends otherwise is cancelled on the shard.
 */
export class ShardClient {
  readonly name: string;
  readonly endpoint: string;
  /** Null while the transport cannot be opened, which each heartbeat tries again. */
  #transport: ClientTransport | null;
  #state: 'connecting' | 'ready' | 'closed' = 'connecting';
  #why: TerabagError;
  #nextId = 1 + Math.floor(Math.random() * 2 ** 40);
  #silentBeats = 0;
  #explainedAt = Number.NEGATIVE_INFINITY;
  readonly #pending = new Map<number, Pending>();
  /** Requests that the transport refused, in their order; offered again while the shard is ready. */
  readonly #refused = new Set<number>();
  #cancelRetry: (() => void) | null = null;
  /** By the id of their message. */
  readonly #stats: Waiters<number, ShardStats>;
  readonly #readiness: Waiters<symbol, void>;
  readonly #cancelHeartbeat: () => void;
  readonly #stamp: Uint8Array;
  readonly counts: Record<keyof RpcCounts, number>;

  /** Throws what connect throws: an endpoint that cannot be used at all. */
  constructor(
    private readonly expected: ExpectedShard,
    private readonly connect: Connect,
    private readonly clock: Clock = systemClock,
  ) {
    this.name = expected.name;
    this.endpoint = expected.endpoints[0] ?? '';
    this.#stamp = stampOf(expected.version);
    this.#stats = new Waiters(clock);
    this.#readiness = new Waiters(clock);
    this.counts = Object.fromEntries(Object.keys(RPC_COUNTERS).map((name) => [name, 0])) as Record<keyof RpcCounts, number>;
    this.#why = this.#unavailable('has not answered yet');
    this.#transport = this.#open();
    // What waits for an answer has a timer of its own: a process without other work ends.
    this.#cancelHeartbeat = clock.every(BEAT_MS, () => this.#beat());
  }

  get ready(): boolean {
    return this.#state === 'ready';
  }

  /** Why no replica serves; null while one does. */
  get unavailability(): TerabagError | null {
    return this.ready ? null : this.#why;
  }

  /** Resolves when the shard is ready, rejects with the reason after ms. */
  async whenReady(ms: number): Promise<void> {
    if (this.#state === 'closed') throw this.#why;
    if (!this.ready) await this.#readiness.wait(Symbol(), ms, () => this.#why);
  }

  /**
   * Asks for pooled vectors; settles by the deadline, or at once with code aborted when the signal is. The batch is encoded before it returns.
   */
  pool(batch: SparseBatch, { deadlineAt, answerBytes, signal = null, rpc = null }: PoolOptions): Promise<Answer> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      if (this.#state === 'closed') throw this.#why;
      if (signal?.aborted) throw this.#aborted(signal);
      const now = this.clock.now();
      const remainingMs = deadlineAt - now;
      // A timer would be due after that of the whole request.
      if (remainingMs <= EARLY_MS) throw this.#unanswered(0);
      const parts = clientMessageParts({ kind: 'pool', id, stamp: this.#stamp, sentAtMs: now, remainingMs, batch, timed: rpc !== null });
      const bytes = parts.reduce((sum, { byteLength }) => sum + byteLength, 0);
      // A peer closes the connection on a longer message, and with it every request in flight.
      if (bytes > MAX_MESSAGE_BYTES) {
        throw new TerabagError(
          'invalid_argument',
          `request is too long for shard: ${this.name}, ${bytes} bytes, limit ${MAX_MESSAGE_BYTES}`,
          { shard: this.name, bytes },
        );
      }
      const message = messageBuffers.take(bytes);
      copyParts(parts, message.bytes);
      rpc?.serialized();
      const cancelTimer = this.clock.after(Math.max(0, remainingMs - EARLY_MS), () => this.#due(id));
      const onAbort = (): void => this.#end(id, this.#aborted(signal));
      signal?.addEventListener('abort', onAbort, { once: true });
      const forget = (): void => signal?.removeEventListener('abort', onAbort);
      this.#pending.set(id, { message, deadlineAt, answerBytes, cancelTimer, forget, resolve, reject, rpc, sent: false });
      rpc?.hold();
      if (this.ready) this.#sendOrKeep(id);
    });
  }

  /** What the shard says of itself; rejects at once with the reason when it is away, or goes. */
  async stats(ms: number): Promise<ShardStats> {
    if (!this.ready) throw this.#why;
    const id = this.#nextId++;
    if (!this.#send(encodeClientMessage({ kind: 'stats', id })))
      throw new TerabagError('overloaded', `too many messages wait for the shard: ${this.name}`, { shard: this.name });
    return this.#stats.wait(id, ms, () => new TerabagError('deadline_exceeded', `shard sent no stats: ${this.name}`, { shard: this.name }));
  }

  close(): void {
    this.#state = 'closed';
    this.#why = new TerabagError('closed', 'the predictor is closed');
    this.#cancelHeartbeat();
    this.#cancelRetry?.();
    for (const id of [...this.#pending.keys()]) this.#end(id, this.#why);
    this.#stats.rejectAll(this.#why);
    this.#readiness.rejectAll(this.#why);
    this.#transport?.close();
  }

  #open(): ClientTransport {
    // Events of a transport that was replaced are not of interest.
    const current = (): boolean => this.#state !== 'closed' && this.#transport === transport;
    const transport = this.connect(this.endpoint, {
      up: () => current() && this.#hello(),
      down: () => current() && this.#down('closed the connection'),
      unreachable: () => current() && this.#explain(transport),
      message: (message) => (current() ? this.#receive(message) : message.release()),
    });
    return transport;
  }

  #unavailable(what: string, details: ErrorDetails = {}): TerabagError {
    return new TerabagError('shard_unavailable', `shard ${what}: ${this.name} at ${this.endpoint}`, {
      ...details,
      shard: this.name,
      endpoint: this.endpoint,
    });
  }

  #aborted(signal: AbortSignal | null): TerabagError {
    return new TerabagError('aborted', `the request was aborted: ${this.name}`, { shard: this.name }, { cause: signal?.reason });
  }

  /** Finds out why nobody is there, for the errors of requests until somebody is. */
  #explain(transport: ClientTransport): void {
    const now = this.clock.now();
    if (this.ready || now - this.#explainedAt < EXPLAIN_MS) return;
    this.#explainedAt = now;
    void transport.explain().then((reason) => {
      if (reason === null || this.#state !== 'connecting' || this.#transport !== transport || this.#why.code !== 'shard_unavailable')
        return;
      this.#why = this.#unavailable(`cannot be reached (${reason})`, { reason });
    });
  }

  #send(message: Uint8Array): boolean {
    return this.#transport?.send(message) ?? false;
  }

  /** Sends a request, or keeps it for later when the transport's queue is full, behind those that were kept before. */
  #sendOrKeep(id: number): void {
    if (this.#refused.size === 0 && this.#sendPool(id)) return;
    this.#refused.add(id);
    this.counts.refused++;
    this.#cancelRetry ??= this.clock.after(RETRY_MS, () => this.#retry());
  }

  /** False when the transport refuses it. */
  #sendPool(id: number): boolean {
    const pending = this.#pending.get(id);
    if (pending === undefined) return true;
    const { message, rpc } = pending;
    if (!this.#send(message.bytes)) return false;
    pending.sent = true;
    this.counts.sent++;
    this.counts.bytesSent += message.bytes.byteLength;
    rpc?.sent();
    return true;
  }

  #retry(): void {
    this.#cancelRetry?.();
    this.#cancelRetry = null;
    if (!this.ready) return;
    for (const id of this.#refused) {
      if (!this.#sendPool(id)) break;
      this.#refused.delete(id);
    }
    if (this.#refused.size > 0) this.#cancelRetry = this.clock.after(RETRY_MS, () => this.#retry());
  }

  #hello(): void {
    const { version, kernels } = this.expected;
    this.#send(encodeClientMessage({ kind: 'hello', sentAtMs: this.clock.now(), version, kernels }));
  }

  #down(what: string): void {
    if (this.#state === 'closed') return;
    if (this.#state === 'ready') this.counts.lost++;
    this.#state = 'connecting';
    this.#refused.clear();
    for (const pending of this.#pending.values()) pending.sent = false;
    this.#why = this.#unavailable(what);
    this.#stats.rejectAll(this.#why);
  }

  /** Called by a timer: nothing may be thrown. */
  #beat(): void {
    if (this.#transport === null) {
      this.#reopen();
    } else if (!this.ready) {
      this.#hello();
    } else if (this.#silentBeats++ >= SILENT_BEATS) {
      this.#down('fell silent');
      this.#transport.close();
      this.#transport = null;
      this.#reopen();
    } else {
      // Refused while its queue is full: then the shard is asked for much else.
      this.#send(encodeClientMessage({ kind: 'ping', id: this.#nextId++, sentAtMs: this.clock.now() }));
    }
  }

  #reopen(): void {
    try {
      this.#transport = this.#open();
    } catch (error) {
      // The next heartbeat tries again: file descriptors, say, may be free then.
      const { message, details } = TerabagError.from(error);
      this.#why = this.#unavailable(`cannot be connected to (${message})`, details);
    }
  }

  /** The deadline of a request, which may have come while this event loop stood still: what has arrived meanwhile is read first. */
  #due(id: number): void {
    this.#transport?.readWaiting();
    if (!this.#pending.has(id)) return;
    this.clock.afterPolling(() => {
      const pending = this.#pending.get(id);
      if (pending === undefined) return;
      const lateMs = Math.round(this.clock.now() - pending.deadlineAt);
      this.#end(id, this.ready ? this.#unanswered(lateMs) : this.#why);
    });
  }

  #unanswered(lateMs: number): TerabagError {
    const late = `shard did not answer by the deadline: ${this.name} at ${this.endpoint}`;
    if (lateMs < LATE_MS) return new TerabagError('deadline_exceeded', late, { shard: this.name });
    return new TerabagError('deadline_exceeded', `${late}; this process's event loop was itself late by ${lateMs} ms`, {
      shard: this.name,
      lateMs,
    });
  }

  #receive(received: Lent): void {
    const receivedAt = this.clock.now();
    let message: ShardMessage;
    try {
      message = decodeShardMessage(received.bytes);
    } catch (error) {
      received.release();
      this.counts.malformed++;
      const known = TerabagError.from(error);
      if (known.code === 'version_mismatch') this.#mismatched(known.message, known.details);
      return;
    }
    this.#silentBeats = 0;
    if (message.kind === 'pooled') {
      this.counts.bytesReceived += received.bytes.byteLength;
      const pending = this.#take(message.id);
      const unsound = pending === undefined ? null : this.#unsound(message, pending.answerBytes);
      if (pending === undefined || unsound !== null) received.release();
      if (unsound !== null) pending?.reject(unsound);
      pending?.rpc?.answered(receivedAt, message.stages);
      pending?.resolve({ pooled: message.pooled, message: received });
    } else {
      received.release();
      this.#receiveControl(message);
    }
    if (this.#refused.size > 0) this.#retry();
  }

  /** Why an answer cannot be used. */
  #unsound({ id, stamp, pooled, checksum }: Extract<ShardMessage, { kind: 'pooled' }>, answerBytes: number): TerabagError | null {
    const at = `${this.name} at ${this.endpoint}`;
    const where = { shard: this.name, endpoint: this.endpoint };
    if (!sameStamp(stamp, this.#stamp)) return this.#skew(shownStamp(stamp));
    if (pooled.byteLength !== answerBytes)
      return new TerabagError(
        'bad_message',
        `answer of another length than the request asks for: ${at}, ${pooled.byteLength} bytes, expected ${answerBytes}`,
        { ...where, bytes: pooled.byteLength, expected: answerBytes },
      );
    if (native.answerChecksum(id, stamp, pooled) === checksum) return null;
    return new TerabagError('bad_message', `answer is not what its checksum says: ${at}`, where);
  }

  #skew(theirs: string): TerabagError {
    const ours = shownVersion(this.expected.version);
    return new TerabagError('version_skew', `shard serves another version: ${this.name} at ${this.endpoint}, ${theirs}; expected ${ours}`, {
      ...{ shard: this.name, endpoint: this.endpoint, serves: theirs, asked: ours },
    });
  }

  #receiveControl(message: Exclude<ShardMessage, { kind: 'pooled' }>): void {
    switch (message.kind) {
      case 'welcome':
        this.#welcome(message);
        return;
      case 'error':
        if (message.code === 'version_mismatch') this.#mismatched(message.message, message.details);
        // The request stays pending: the shard that takes its place may answer in time.
        else if (message.code === 'draining') this.#down('drains');
        else {
          const code = SHARD_CODES.has(message.code) ? (message.code as ErrorCode) : 'internal';
          const details: ErrorDetails = { ...message.details, shard: this.name };
          const failure = new TerabagError(code, message.message, details);
          if (!this.#stats.reject(message.id, failure)) this.#take(message.id)?.reject(failure);
        }
        return;
      case 'stats':
        if (!this.#stats.resolve(message.id, message.stats)) this.counts.unmatched++;
        return;
      case 'pong':
        if (message.state === 'draining') this.#down('drains');
    }
  }

  /** The other side speaks another version: nothing it says can be taken for an answer. */
  #mismatched(what: string, details: ErrorDetails): void {
    // A shard that was greeted speaks this version: whatever this message is, it says nothing of the shard.
    if (this.ready) return;
    this.#down('speaks another version');
    this.#why = new TerabagError('version_mismatch', `${what}: ${this.name} at ${this.endpoint}`, {
      ...details,
      shard: this.name,
      endpoint: this.endpoint,
    });
  }

  #welcome(message: Extract<ShardMessage, { kind: 'welcome' }>): void {
    const { version, kernels } = this.expected;
    const { modelHash } = message.version;
    if (modelHash !== version.modelHash || message.shard !== this.name) {
      this.#refuse(
        `serves another model or is another shard than the plan says: ${this.name} at ${this.endpoint} is ${message.shard}, model ${modelHash.slice(0, 12)}, expected ${version.modelHash.slice(0, 12)}`,
        { modelHash },
      );
    } else if (!sameVersion(message.version, version)) {
      this.#down('serves another version');
      this.#why = this.#skew(shownVersion(message.version));
    } else if (!poolAlike(message.kernels, kernels)) {
      this.#refuse(
        `pools with kernels that give other bits (TERABAG_ISA chooses them): ${this.name} at ${this.endpoint} has ${message.kernels}, this process ${kernels}`,
        { kernels: message.kernels, expected: kernels },
      );
    } else if (message.state === 'draining') {
      this.#down('drains');
    } else if (!this.ready) {
      // A second greeting may have crossed the first answer: what was sent since is not sent again.
      this.#state = 'ready';
      this.#readiness.resolveAll();
      this.#resend();
    }
  }

  #refuse(what: string, details: ErrorDetails): void {
    this.#down('serves something else');
    this.#why = new TerabagError('model_mismatch', `shard ${what}`, { ...details, shard: this.name, endpoint: this.endpoint });
  }

  /** Sends all that waits. The deadline shrinks meanwhile, so that requests are encoded anew. */
  #resend(): void {
    const now = this.clock.now();
    for (const [id, pending] of this.#pending) {
      const first = decodeClientMessage(pending.message.bytes);
      if (first.kind !== 'pool') continue;
      const anew = encodeClientMessage({ ...first, sentAtMs: now, remainingMs: Math.max(0, pending.deadlineAt - now) });
      const message = messageBuffers.take(anew.byteLength);
      message.bytes.set(anew);
      pending.message.release();
      this.#pending.set(id, { ...pending, message });
      this.counts.resent++;
      this.#sendOrKeep(id);
    }
  }

  #take(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    if (pending === undefined) {
      this.counts.unmatched++;
      return undefined;
    }
    this.#pending.delete(id);
    this.#refused.delete(id);
    pending.cancelTimer();
    pending.forget();
    pending.message.release();
    pending.rpc?.letGo();
    return pending;
  }

  /** Ends a request that the shard has not answered, and spares the shard what nobody waits for. */
  #end(id: number, error: TerabagError): void {
    const pending = this.#take(id);
    if (pending === undefined) return;
    if (pending.sent && this.#send(encodeClientMessage({ kind: 'cancel', id }))) this.counts.cancelled++;
    pending.reject(error);
  }
}

function copyParts(parts: readonly Uint8Array[], into: Uint8Array): void {
  let at = 0;
  for (const part of parts) {
    into.set(part, at);
    at += part.byteLength;
  }
}
