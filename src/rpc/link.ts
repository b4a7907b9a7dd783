import type { Clock } from '../clock.js';
import { poolAlike } from '../engine/kernels.js';
import { native } from '../engine/native.js';
import { type ErrorCode, type ErrorDetails, TerabagError } from '../errors.js';
import type { RpcCounts } from '../observe/counters.js';
import { decodeShardMessage, encodeClientMessage } from './codec.js';
import type { ShardMessage } from './messages.js';
import type { ShardStats } from './shard-stats.js';
import type { Lent } from './transport/buffer-pool.js';
import type { ClientHandlers, ClientTransport } from './transport/transport.js';
import { type ServedVersion, sameStamp, sameVersion, shownStamp, shownVersion, stampOf } from './version.js';
import { Waiters } from './waiters.js';

/** A ready shard gets a heartbeat this often; one that is not (yet, or not any more) is greeted again this often. */
const BEAT_MS = 250;
/** After so many heartbeats without a message the shard counts as gone. Heartbeats, not time: in a blocked event loop nobody is heard. */
const SILENT_BEATS = 6;
/** A message that the transport refused (its queue is full) is offered again after so long, and when the shard sends something. */
const RETRY_MS = 2;
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
  'draining',
  'closed',
  'internal',
]);

/** Opens a transport to an endpoint; throws a TerabagError when the endpoint cannot be used. */
export type Connect = (endpoint: string, handlers: ClientHandlers) => ClientTransport;

/** What has to be true of the shard behind an endpoint. */
export interface ExpectedPeer {
  readonly name: string;
  readonly version: ServedVersion;
  /** Kernels of this process: bits depend on them. */
  readonly kernels: string;
}

/** One sending of a request over one link. */
export interface LinkAttempt {
  /** Unique among those of a link. */
  readonly id: number;
  /** The request as it is sent; not read once it is sent. */
  readonly bytes: Uint8Array;
  /** What its vectors take. */
  readonly answerBytes: number;
  readonly sent: boolean;
  /** The transport has it. */
  markSent(): void;
}

export type PooledMessage = Extract<ShardMessage, { kind: 'pooled' }>;

export interface LinkHandlers<A> {
  /** The shard is greeted, and takes requests. */
  ready(): void;
  /** It takes none for now, and will not answer these. */
  down(lost: readonly A[]): void;
  /** Nobody is there yet. */
  unreachable(): void;
  /** The message holds the vectors, and is the receiver's to release. */
  answered(attempt: A, answer: PooledMessage, message: Lent, receivedAt: number): void;
  /** The shard answered with an error. */
  failed(attempt: A, error: TerabagError): void;
  /** It answered with something that cannot be used. */
  unsound(attempt: A, error: TerabagError): void;
  /** A message that cannot be read, and thus not be told what it answers. */
  malformed(): void;
}

export interface LinkOptions<A> {
  readonly peer: ExpectedPeer;
  readonly endpoint: string;
  readonly connect: Connect;
  readonly clock: Clock;
  readonly nextId: () => number;
  readonly counts: Record<keyof RpcCounts, number>;
  readonly handlers: LinkHandlers<A>;
}

/**
 * A session with the shard at one endpoint: connects, greets, sends heartbeats, and matches answers with the attempts that it was given. It never
 * sends an attempt twice: those that a lost session leaves unanswered go back to who gave them.
 */
export class ShardLink<A extends LinkAttempt> {
  readonly endpoint: string;
  /** Null while the transport cannot be opened, which each heartbeat tries again. */
  #transport: ClientTransport | null = null;
  /** draining: the shard takes no more requests, and ends those that it has. */
  #state: 'connecting' | 'ready' | 'draining' | 'closed' = 'connecting';
  #refusal: TerabagError | null = null;
  #why: TerabagError;
  /** The transport has a connection, over which the shard is greeted. */
  #connected = false;
  #silentBeats = 0;
  #explainedAt = Number.NEGATIVE_INFINITY;
  /** In the order in which they were given. */
  readonly #attempts = new Map<number, A>();
  /** Those of them that the transport refused, in their order; offered again while the shard is ready. */
  readonly #waiting = new Set<A>();
  #cancelRetry: (() => void) | null = null;
  /** When the first message was sent that nothing was heard after. */
  #unheardSince = Number.POSITIVE_INFINITY;
  #pingId = 0;
  #pingedAt = 0;
  /** Nothing was heard since. */
  #isPinged = false;
  #roundTripMs: number | null = null;
  #othersInFlight = 0;
  readonly #stamp: Uint8Array;
  /** By the id of their message. */
  readonly #stats: Waiters<number, ShardStats>;
  readonly #cancelHeartbeat: () => void;

  constructor(private readonly options: LinkOptions<A>) {
    const { clock, endpoint } = options;
    this.endpoint = endpoint;
    this.#stamp = stampOf(options.peer.version);
    this.#stats = new Waiters(clock);
    this.#why = this.#unavailable('has not answered yet');
    this.#reopen();
    // What waits for an answer has a timer of its own: a process without other work ends.
    this.#cancelHeartbeat = clock.every(BEAT_MS, () => this.#beat());
  }

  get ready(): boolean {
    return this.#state === 'ready';
  }

  get closed(): boolean {
    return this.#state === 'closed';
  }

  get draining(): boolean {
    return this.#state === 'draining';
  }

  /** Why its transport cannot be opened; null when it is open. */
  get refusal(): TerabagError | null {
    return this.#refusal;
  }

  /** Why it is not ready; of a link that is, what was before. */
  get why(): TerabagError {
    return this.#why;
  }

  /** Attempts that have no answer yet. */
  get inFlight(): number {
    return this.#attempts.size;
  }

  get attempts(): Iterable<A> {
    return this.#attempts.values();
  }

  /** Requests of others on the shard, as of the last heartbeat. */
  get othersInFlight(): number {
    return this.#othersInFlight;
  }

  /** Of the last heartbeat; null before the first. */
  get roundTripMs(): number | null {
    return this.#roundTripMs;
  }

  /** How long the shard has owed a sign: nothing was heard since the first message, as long ago, of those that it has not answered. */
  unheardMs(now: number): number {
    return Math.max(0, now - this.#unheardSince);
  }

  /** Sends an attempt, or keeps it for later when the transport's queue is full, behind those that were kept before. For a link that is ready. */
  send(attempt: A, now: number): void {
    this.#attempts.set(attempt.id, attempt);
    this.#owed(now);
    if (this.#waiting.size === 0 && this.#give(attempt)) return;
    this.#waiting.add(attempt);
    this.options.counts.refused++;
    this.#cancelRetry ??= this.options.clock.after(RETRY_MS, () => this.#retry(), 'background');
  }

  /** Forgets an attempt whose answer nobody waits for any more, and spares the shard the work. */
  cancel(attempt: A): void {
    if (!this.#attempts.delete(attempt.id)) return;
    this.#waiting.delete(attempt);
    if (attempt.sent && this.#write(encodeClientMessage({ kind: 'cancel', id: attempt.id }))) this.options.counts.cancelled++;
    // Nothing else would tell of a shard that is well: it does not answer what is cancelled.
    if (attempt.sent && this.#attempts.size === 0 && this.ready && !this.#isPinged) this.#ping();
  }

  /** What the shard says of itself, draining or not; rejects at once with the reason when it is away, or goes. */
  async stats(ms: number): Promise<ShardStats> {
    if (!this.ready && !this.draining) throw this.#why;
    const shard = this.options.peer.name;
    const id = this.options.nextId();
    if (!this.#write(encodeClientMessage({ kind: 'stats', id })))
      throw new TerabagError('overloaded', `too many messages wait for the shard: ${shard}`, { shard });
    return this.#stats.wait(id, ms, () => new TerabagError('deadline_exceeded', `shard sent no stats: ${shard}`, { shard }));
  }

  /** Passes on what has arrived and is not read yet. */
  readWaiting(): void {
    this.#transport?.readWaiting();
  }

  /** Attempts are forgotten. */
  close(why: TerabagError): void {
    this.#state = 'closed';
    this.#why = why;
    this.#cancelHeartbeat();
    this.#cancelRetry?.();
    this.#attempts.clear();
    this.#waiting.clear();
    this.#stats.rejectAll(why);
    this.#transport?.close();
  }

  #open(): ClientTransport {
    // Events of a transport that was replaced are not of interest.
    const current = (): boolean => this.#state !== 'closed' && this.#transport === transport;
    const transport = this.options.connect(this.endpoint, {
      up: () => current() && this.#connect(),
      down: () => current() && this.#disconnect(),
      unreachable: () => current() && this.#explain(transport),
      message: (message) => (current() ? this.#receive(message) : message.release()),
    });
    return transport;
  }

  #connect(): void {
    this.#connected = true;
    this.#silentBeats = 0;
    this.#hello();
  }

  #disconnect(): void {
    this.#connected = false;
    this.#lose('closed the connection');
  }

  /** Called by a timer, too: nothing may be thrown. */
  #reopen(): void {
    this.#connected = false;
    try {
      this.#transport = this.#open();
      this.#refusal = null;
    } catch (error) {
      // The next heartbeat tries again: file descriptors, say, may be free then.
      this.#refusal = TerabagError.from(error);
      this.#why = this.#unavailable(`cannot be connected to (${this.#refusal.message})`, this.#refusal.details);
    }
  }

  #unavailable(what: string, details: ErrorDetails = {}): TerabagError {
    return this.#error('shard_unavailable', `shard ${what}: ${this.#place}`, details);
  }

  #error(code: ErrorCode, message: string, details: ErrorDetails): TerabagError {
    return new TerabagError(code, message, { ...details, shard: this.options.peer.name, endpoint: this.endpoint });
  }

  get #place(): string {
    return `${this.options.peer.name} at ${this.endpoint}`;
  }

  /** Finds out why nobody is there, for the errors of requests until somebody is. */
  #explain(transport: ClientTransport): void {
    this.#connected = false;
    this.options.handlers.unreachable();
    const now = this.options.clock.now();
    if (this.#state !== 'connecting' || now - this.#explainedAt < EXPLAIN_MS) return;
    this.#explainedAt = now;
    void transport.explain().then((reason) => {
      if (reason === null || this.#state !== 'connecting' || this.#transport !== transport || this.#why.code !== 'shard_unavailable')
        return;
      this.#why = this.#unavailable(`cannot be reached (${reason})`, { reason });
    });
  }

  #write(message: Uint8Array): boolean {
    return this.#transport?.send(message) ?? false;
  }

  /** False when the transport refuses it. */
  #give(attempt: A): boolean {
    const { bytes } = attempt;
    if (!this.#write(bytes)) return false;
    this.options.counts.sent++;
    this.options.counts.bytesSent += bytes.byteLength;
    attempt.markSent();
    return true;
  }

  #retry(): void {
    this.#cancelRetry?.();
    this.#cancelRetry = null;
    if (!this.ready) return;
    for (const attempt of this.#waiting) {
      if (!this.#give(attempt)) break;
      this.#waiting.delete(attempt);
    }
    if (this.#waiting.size > 0) this.#cancelRetry = this.options.clock.after(RETRY_MS, () => this.#retry(), 'background');
  }

  /** The shard has something to answer from now on, unless it had before. */
  #owed(now: number): void {
    if (now < this.#unheardSince) this.#unheardSince = now;
  }

  #hello(): void {
    const { version, kernels } = this.options.peer;
    this.#write(encodeClientMessage({ kind: 'hello', sentAtMs: this.options.clock.now(), version, kernels }));
  }

  /** The session is over, and with it what was asked in it. */
  #lose(what: string): void {
    if (this.#state === 'closed') return;
    const lost = [...this.#attempts.values()];
    this.#attempts.clear();
    this.#waiting.clear();
    this.#endSession('connecting', what);
    this.options.handlers.down(lost);
  }

  /** The shard ends what it has, but takes no more. */
  #drain(): void {
    if (this.#state === 'draining') return;
    const unsent = [...this.#waiting];
    for (const { id } of unsent) this.#attempts.delete(id);
    this.#waiting.clear();
    this.#endSession('draining', 'drains');
    this.options.handlers.down(unsent);
  }

  #endSession(state: 'connecting' | 'draining', what: string): void {
    if (this.#state === 'ready') this.options.counts.lost++;
    this.#state = state;
    this.#silentBeats = 0;
    this.#isPinged = false;
    if (state === 'connecting') this.#unheardSince = Number.POSITIVE_INFINITY;
    this.#why = this.#unavailable(what);
    this.#stats.rejectAll(this.#why);
  }

  /** Called by a timer: nothing may be thrown. */
  #beat(): void {
    if (this.#transport === null) {
      this.#reopen();
    } else if (this.#connected && this.#silentBeats++ >= SILENT_BEATS) {
      this.#transport.close();
      this.#transport = null;
      this.#lose('fell silent');
      // Unless those who were told have closed it.
      if (!this.closed) this.#reopen();
    } else if (this.ready) {
      this.#ping();
    } else {
      this.#hello();
    }
  }

  #ping(): void {
    const { clock, nextId } = this.options;
    this.#pingId = nextId();
    this.#pingedAt = clock.now();
    // Refused while its queue is full: then the shard is asked for much else.
    if (this.#write(encodeClientMessage({ kind: 'ping', id: this.#pingId, sentAtMs: this.#pingedAt }))) {
      this.#isPinged = true;
      this.#owed(this.#pingedAt);
    }
  }

  #receive(received: Lent): void {
    const { clock, counts, handlers } = this.options;
    const receivedAt = clock.now();
    let message: ShardMessage;
    try {
      message = decodeShardMessage(received.bytes);
    } catch (error) {
      received.release();
      this.#receiveUnread(TerabagError.from(error));
      return;
    }
    this.#silentBeats = 0;
    this.#isPinged = false;
    this.#unheardSince = Number.POSITIVE_INFINITY;
    if (message.kind === 'pooled') {
      counts.bytesReceived += received.bytes.byteLength;
      const attempt = this.#take(message.id);
      const unsound = attempt === null ? null : this.#unsound(message, attempt.answerBytes);
      if (attempt === null || unsound !== null) received.release();
      if (attempt !== null && unsound !== null) handlers.unsound(attempt, unsound);
      else if (attempt !== null) handlers.answered(attempt, message, received, receivedAt);
    } else {
      // The stamp of what it says lies in it.
      this.#receiveControl(message, receivedAt);
      received.release();
    }
    if (this.#attempts.size > 0) this.#owed(receivedAt);
    if (this.#waiting.size > 0) this.#retry();
  }

  #receiveUnread(error: TerabagError): void {
    this.options.counts.malformed++;
    if (error.code === 'version_mismatch') {
      this.#mismatched(error.message, error.details);
      return;
    }
    const id = error.details['id'];
    const attempt = typeof id === 'number' ? this.#take(id) : null;
    if (attempt === null) this.options.handlers.malformed();
    else this.options.handlers.unsound(attempt, this.#error('bad_message', `${error.message}: ${this.#place}`, error.details));
  }

  /** Why an answer cannot be used. */
  #unsound({ id, stamp, pooled, checksum }: PooledMessage, answerBytes: number): TerabagError | null {
    if (!sameStamp(stamp, this.#stamp)) return this.#skewed(shownStamp(stamp));
    if (pooled.byteLength === answerBytes && native.answerChecksum(id, stamp, pooled) === checksum) return null;
    this.options.counts.corrupt++;
    if (pooled.byteLength === answerBytes) return this.#error('bad_message', `answer is not what its checksum says: ${this.#place}`, {});
    return this.#error(
      'bad_message',
      `answer of another length than the request asks for: ${this.#place}, ${pooled.byteLength} bytes, expected ${answerBytes}`,
      { bytes: pooled.byteLength, expected: answerBytes },
    );
  }

  /** The shard serves another version than when it was greeted: whatever else it would answer is of no use. */
  #skewed(theirs: string): TerabagError {
    this.options.counts.skew++;
    this.#lose('serves another version');
    const ours = shownVersion(this.options.peer.version);
    this.#why = this.#error('version_skew', `shard serves another version: ${this.#place}, ${theirs}; expected ${ours}`, {
      ...{ serves: theirs, asked: ours },
    });
    return this.#why;
  }

  #receiveControl(message: Exclude<ShardMessage, { kind: 'pooled' }>, receivedAt: number): void {
    switch (message.kind) {
      case 'welcome':
        this.#welcome(message);
        return;
      case 'error':
        if (message.code === 'version_mismatch') this.#mismatched(message.message, message.details);
        else this.#refused(message);
        return;
      case 'stats':
        if (!sameStamp(message.stamp, this.#stamp)) this.#skewed(shownStamp(message.stamp));
        else if (!this.#stats.resolve(message.id, message.stats)) this.options.counts.unmatched++;
        return;
      case 'pong':
        if (message.id === this.#pingId) this.#roundTripMs = receivedAt - this.#pingedAt;
        this.#othersInFlight = Math.max(0, message.inFlight - this.#attempts.size);
        if (!sameStamp(message.stamp, this.#stamp)) this.#skewed(shownStamp(message.stamp));
        else if (message.state === 'draining') this.#drain();
    }
  }

  #refused({ id, code: word, message, details }: Extract<ShardMessage, { kind: 'error' }>): void {
    // Before anything else is sent there.
    if (word === 'draining' || word === 'closed') this.#drain();
    const code = SHARD_CODES.has(word) ? (word as ErrorCode) : 'internal';
    const failure = new TerabagError(code, message, { ...details, shard: this.options.peer.name, endpoint: this.endpoint });
    if (this.#stats.reject(id, failure)) return;
    const attempt = this.#take(id);
    if (attempt === null) return;
    if (code === 'version_skew') {
      this.options.counts.skew++;
      this.#lose('serves another version');
      this.#why = failure;
    }
    this.options.handlers.failed(attempt, failure);
  }

  /** The attempt that a message answers. */
  #take(id: number): A | null {
    const attempt = this.#attempts.get(id);
    if (attempt === undefined) {
      this.options.counts.unmatched++;
      return null;
    }
    this.#attempts.delete(id);
    this.#waiting.delete(attempt);
    return attempt;
  }

  /** The other side speaks another version: nothing it says can be taken for an answer. */
  #mismatched(what: string, details: ErrorDetails): void {
    // A shard that was greeted speaks this version: whatever this message is, it says nothing of the shard.
    if (this.#state !== 'connecting') return;
    this.#lose('speaks another version');
    this.#why = this.#error('version_mismatch', `${what}: ${this.#place}`, details);
  }

  #welcome({ shard, version, kernels, state }: Extract<ShardMessage, { kind: 'welcome' }>): void {
    const { peer, handlers } = this.options;
    if (version.modelHash !== peer.version.modelHash || shard !== peer.name) {
      this.#refuse(
        `serves another model or is another shard than the plan says: ${this.#place} is ${shard}, model ${version.modelHash.slice(0, 12)}, expected ${peer.version.modelHash.slice(0, 12)}`,
        { modelHash: version.modelHash },
      );
    } else if (!sameVersion(version, peer.version)) {
      this.#skewed(shownVersion(version));
    } else if (!poolAlike(kernels, peer.kernels)) {
      this.#refuse(
        `pools with kernels that give other bits (TERABAG_ISA chooses them): ${this.#place} has ${kernels}, this process ${peer.kernels}`,
        { kernels, expected: peer.kernels },
      );
    } else if (state === 'draining') {
      this.#drain();
    } else if (!this.ready) {
      this.#state = 'ready';
      handlers.ready();
    }
  }

  #refuse(what: string, details: ErrorDetails): void {
    this.#lose('serves something else');
    this.#why = this.#error('model_mismatch', `shard ${what}`, details);
  }
}
