import { type Clock, systemClock } from '../clock.js';
import type { SparseBatch } from '../engine/sparse-batch.js';
import { type ErrorCode, TerabagError } from '../errors.js';
import { RPC_COUNTERS, type RpcCounts } from '../observe/counters.js';
import type { RpcSpan } from '../observe/spans.js';
import { type Random, systemRandom } from '../random.js';
import { poolMessageBytes, renewPool, writePoolMessage } from './codec.js';
import { DueList } from './due-list.js';
import type { Connect, ExpectedPeer, PooledMessage, ShardLink } from './link.js';
import { type Answer, Attempt, Call } from './replicas/call.js';
import type { EndpointSource } from './replicas/endpoint-source.js';
import { Hedging } from './replicas/hedging.js';
import type { Replica } from './replicas/replica.js';
import { ReplicaSet } from './replicas/replica-set.js';
import { RetryBudget } from './replicas/retry-budget.js';
import type { ReplicaStats } from './shard-stats.js';
import { type Lent, messageBuffers } from './transport/buffer-pool.js';
import { MAX_MESSAGE_BYTES } from './transport/transport.js';
import { stampOf } from './version.js';
import { Waiters } from './waiters.js';

/** Requests to shards end a moment before the whole request does, whose error would not name the shard. */
const EARLY_MS = 1;
/** Less than that, a timer is late on any machine. */
const LATE_MS = 5;
/** Between two looks whether calls that wait can be sent: the retry budget gets one more in three of these. */
const LOOK_MS = 100;

export type { Connect } from './link.js';

export interface PoolOptions {
  /** performance.now() time. */
  readonly deadlineAt: number;
  /** What the vectors have to take: an answer of another length is none. */
  readonly answerBytes: number;
  readonly signal?: AbortSignal | null;
  readonly rpc?: RpcSpan | null;
}

/** What a failure of an attempt is owed to, and so what helps. replica: another may do better, and this one is to blame. */
type Fault = 'request' | 'drain' | 'load' | 'replica';

/** That of an error of a shard; of codes that are not here it is the replica. */
const FAULTS: Partial<Record<ErrorCode, Fault>> = {
  // Every replica would say the same.
  invalid_argument: 'request',
  index_out_of_range: 'request',
  bad_offsets: 'request',
  bad_message: 'request',
  // Nothing was done for it.
  draining: 'drain',
  closed: 'drain',
  overloaded: 'load',
  deadline_exceeded: 'load',
};

/** beaten: another attempt ended the call. */
type Ending = 'beaten' | 'late' | 'aborted';

/** A replica of a shard as main knows it, without asking. */
export interface ReplicaState {
  readonly shard: string;
  readonly endpoint: string;
  /** Whether it takes requests. */
  readonly ready: boolean;
  readonly draining: boolean;
  /** Its answers failed, and it is given none for a while. */
  readonly ejected: boolean;
  /** Why it takes no requests; null while it does. */
  readonly why: TerabagError | null;
  /** Requests of main that it has not answered. */
  readonly inFlight: number;
  /** What a request takes, smoothed over the latest; null before the first. */
  readonly latencyMs: number | null;
  /** How long ago that was last observed; null before the first. */
  readonly latencyAgeMs: number | null;
  /** Of the latest heartbeat; null before the first. */
  readonly roundTripMs: number | null;
  /** How long it has owed a sign. */
  readonly unheardMs: number;
}

/** What a client expects of a shard, whichever replica answers. */
export interface ExpectedShard extends ExpectedPeer {
  /** Closed with the client. */
  readonly endpoints: EndpointSource;
}

export interface ClientOptions {
  readonly clock?: Clock;
  readonly random?: Random;
  /** Default true: a request that is not answered in time is sent to another replica as well. */
  readonly hedging?: boolean;
}

/**
 * The main shard's end of one sparse shard, whose replicas all give the same answer. A request goes to one of them; when that is lost, refuses it or
 * gives no sound answer, to another; and to another as well when it takes its time. Pooling changes nothing, so that it may be done twice. A request
 * that no replica can take waits for one until its deadline, and fails then with the reason of each. One that ends otherwise is cancelled.
 */
export class ShardClient {
  readonly name: string;
  readonly counts: Record<keyof RpcCounts, number>;
  #nextId: number;
  #closed: TerabagError | null = null;
  readonly #clock: Clock;
  readonly #stamp: Uint8Array;
  readonly #replicas: ReplicaSet;
  readonly #calls: DueList<Call>;
  /** Calls that wait for a replica, in their order. */
  readonly #parked = new Set<Call>();
  #cancelLook: (() => void) | null = null;
  readonly #budget: RetryBudget;
  readonly #hedging: Hedging<Attempt> | null;
  readonly #readiness: Waiters<symbol, void>;

  /** Throws what connect throws: an endpoint that cannot be used at all. */
  constructor(expected: ExpectedShard, connect: Connect, options: ClientOptions = {}) {
    const { clock = systemClock, random = systemRandom, hedging = true } = options;
    this.name = expected.name;
    this.counts = Object.fromEntries(Object.keys(RPC_COUNTERS).map((name) => [name, 0])) as Record<keyof RpcCounts, number>;
    this.#clock = clock;
    this.#stamp = stampOf(expected.version);
    this.#nextId = 1 + Math.floor(random() * 2 ** 40);
    this.#calls = new DueList(clock, () => this.#due());
    this.#budget = new RetryBudget(clock.now());
    this.#hedging = hedging ? new Hedging(clock, (attempt, now) => this.#hedge(attempt, now)) : null;
    this.#readiness = new Waiters(clock);
    this.#replicas = new ReplicaSet({
      ...{ peer: expected, endpoints: expected.endpoints, connect, clock, random, counts: this.counts },
      nextId: () => this.#nextId++,
      events: {
        ready: () => this.#ready(),
        down: (replica, lost) => this.#down(replica, lost),
        answered: (attempt, answer, message, receivedAt) => this.#answered(attempt, answer, message, receivedAt),
        failed: (attempt, error) => this.#failed(attempt, error, FAULTS[error.code] ?? 'replica'),
        unsound: (attempt, error) => this.#failed(attempt, error, 'replica'),
        malformed: (replica) => this.#malformed(replica),
      },
    });
  }

  /** Whether some replica takes requests. */
  get ready(): boolean {
    return this.#replicas.ready;
  }

  /** In the order of the endpoints. */
  replicas(): readonly ReplicaState[] {
    const now = this.#clock.now();
    return this.#replicas.listed.map(({ link, ejection, latencyMs, latencyAt }) => ({
      ...{ shard: this.name, endpoint: link.endpoint, ready: link.ready, draining: link.draining, ejected: !ejection.sound },
      ...{ why: link.ready ? null : link.why, inFlight: link.inFlight, latencyMs },
      ...{ latencyAgeMs: latencyMs === null ? null : now - latencyAt, roundTripMs: link.roundTripMs, unheardMs: link.unheardMs(now) },
    }));
  }

  /** Why no replica takes requests; null while one does. */
  get unavailability(): TerabagError | null {
    if (this.ready) return null;
    return this.#closed ?? this.#replicas.why();
  }

  /** Resolves when some replica takes requests, rejects with the reason after ms. */
  async whenReady(ms: number): Promise<void> {
    if (this.#closed !== null) throw this.#closed;
    if (!this.ready) await this.#readiness.wait(Symbol(), ms, () => this.#replicas.why());
  }

  /**
   * Asks for pooled vectors; settles by the deadline, or at once with code aborted when the signal is. The batch is encoded before it returns.
   */
  pool(batch: SparseBatch, { deadlineAt, answerBytes, signal = null, rpc = null }: PoolOptions): Promise<Answer> {
    return new Promise((resolve, reject) => {
      if (this.#closed !== null) throw this.#closed;
      if (signal?.aborted) throw this.#aborted(signal);
      const now = this.#clock.now();
      const remainingMs = deadlineAt - now;
      // A timer would be due after that of the whole request.
      if (remainingMs <= EARLY_MS) throw this.#unanswered([], 0);
      const id = this.#nextId++;
      const message = this.#room(poolMessageBytes(batch));
      writePoolMessage({ kind: 'pool', id, stamp: this.#stamp, sentAtMs: now, remainingMs, batch, timed: rpc !== null }, message.bytes);
      rpc?.serialized();
      const call = new Call({ message, answerBytes, deadlineAt, signal, rpc, resolve, reject, onAbort: this.#onAbort });
      this.#calls.add(call, deadlineAt - EARLY_MS);
      this.#budget.deposit(now);
      const replica = this.#replicas.choose(now);
      if (replica === null) {
        this.#park(call);
        return;
      }
      this.#send(new Attempt(id, call, replica, now, null), now);
      if (this.#parked.size > 0) this.#unpark(now, 'retries');
    });
  }

  /** What each replica says of itself, in the order of the endpoints; why, at once, of those that are away. Rejects only when this is closed. */
  async stats(ms: number): Promise<ReplicaStats[]> {
    if (this.#closed !== null) throw this.#closed;
    const { listed } = this.#replicas;
    if (listed.length === 0) return [{ shard: this.name, endpoint: null, stats: null, error: this.#replicas.why() }];
    const all = await Promise.all(listed.map(({ link }) => this.#statsOf(link, ms)));
    if (this.#closed !== null) throw this.#closed;
    return all;
  }

  async #statsOf(link: ShardLink<Attempt>, ms: number): Promise<ReplicaStats> {
    const place = { shard: this.name, endpoint: link.endpoint };
    try {
      return { ...place, stats: await link.stats(ms), error: null };
    } catch (error) {
      return { ...place, stats: null, error: TerabagError.from(error) };
    }
  }

  close(): void {
    const closed = new TerabagError('closed', 'the predictor is closed');
    this.#closed = closed;
    for (let call = this.#calls.first; call !== null; call = this.#calls.first) this.#end(call, closed, 'aborted');
    this.#calls.close();
    this.#cancelLook?.();
    this.#hedging?.close();
    this.#readiness.rejectAll(closed);
    this.#replicas.close(closed);
  }

  readonly #onAbort = (call: Call, signal: AbortSignal | null): void => this.#end(call, this.#aborted(signal), 'aborted');

  #aborted(signal: AbortSignal | null): TerabagError {
    return new TerabagError('aborted', `the request was aborted: ${this.name}`, { shard: this.name }, { cause: signal?.reason });
  }

  /** Memory of a request. */
  #room(bytes: number): Lent {
    if (bytes <= MAX_MESSAGE_BYTES) return messageBuffers.take(bytes);
    // A peer closes the connection on a longer message, and with it every request in flight.
    throw new TerabagError('invalid_argument', `request is too long for shard: ${this.name}, ${bytes} bytes, limit ${MAX_MESSAGE_BYTES}`, {
      shard: this.name,
      bytes,
    });
  }

  #send(attempt: Attempt, now: number): void {
    const { call, replica } = attempt;
    if (call.outstanding === null) call.attempt = attempt;
    else call.hedge = attempt;
    if (!replica.ejection.sound) replica.ejection.probe(now);
    if (!call.hedged && this.#replicas.all.length > 1) this.#hedging?.watch(attempt, now, call.deadlineAt - now);
    replica.link.send(attempt, now);
  }

  /** Sends a call again, or at last. What is left of its deadline has shrunk, and no answer to what was sent before is one to this. */
  #sendAnew(call: Call, replica: Replica<Attempt>, now: number): void {
    const id = this.#nextId++;
    const own = messageBuffers.take(call.message.bytes.byteLength);
    own.bytes.set(call.message.bytes);
    renewPool(own.bytes, { id, sentAtMs: now, remainingMs: Math.max(0, call.deadlineAt - now) });
    this.#send(new Attempt(id, call, replica, now, own), now);
  }

  #park(call: Call): void {
    this.#parked.add(call);
    this.#cancelLook ??= this.#clock.after(LOOK_MS, () => this.#look(), 'background');
  }

  /** What waits for the retry budget is sent when that is there again, also when nothing else happens meanwhile. */
  #look(): void {
    this.#cancelLook = null;
    if (this.#parked.size === 0) return;
    this.#unpark(this.#clock.now(), 'retries');
    this.#cancelLook = this.#clock.after(LOOK_MS, () => this.#look(), 'background');
  }

  #ready(): void {
    this.#readiness.resolveAll();
    if (this.#parked.size > 0) this.#unpark(this.#clock.now(), 'resent');
  }

  /** Sends calls that wait. What waited for a replica to come back is not charged to the budget: nothing else could help it. */
  #unpark(now: number, counter: 'retries' | 'resent'): void {
    for (const call of this.#parked) {
      const replica = this.#replicas.choose(now, call.failures);
      if (replica === null) continue;
      if (counter === 'retries' && call.wasSent && !this.#budget.take(now)) return;
      this.#parked.delete(call);
      if (call.wasSent) this.counts[counter]++;
      this.#sendAnew(call, replica, now);
    }
  }

  /** A replica is lost or drains; these attempts will not be answered. */
  #down(replica: Replica<Attempt>, lost: readonly Attempt[]): void {
    const now = this.#clock.now();
    if (replica.link.draining) replica.ejection.probeWithdrawn(now);
    else if (lost.length > 0) this.#blame(replica, now);
    for (const attempt of lost) {
      this.#detach(attempt);
      this.#elsewhere(attempt.call, now, { isCharged: attempt.sent, mayWait: true });
    }
  }

  #answered(attempt: Attempt, answer: PooledMessage, message: Lent, receivedAt: number): void {
    const { call, replica } = attempt;
    const tookMs = receivedAt - attempt.startedAt;
    if (attempt === call.hedge) this.counts.hedgesWon++;
    replica.answered(tookMs, receivedAt);
    this.#hedging?.answered(tookMs);
    call.rpc?.answered(receivedAt, answer.stages);
    this.#detach(attempt);
    this.#finish(call, 'beaten', receivedAt);
    call.resolve({ pooled: answer.pooled, message });
  }

  #failed(attempt: Attempt, error: TerabagError, fault: Fault): void {
    const now = this.#clock.now();
    const { call, replica } = attempt;
    this.#detach(attempt);
    if (fault === 'request') {
      replica.ejection.succeeded(now, attempt.startedAt);
      this.#end(call, error, 'beaten');
    } else if (fault === 'drain') {
      this.#elsewhere(call, now, { isCharged: false, mayWait: true });
    } else {
      if (fault === 'load' && replica.ejection.sound) replica.overloaded(now);
      else this.#blame(replica, now, attempt.startedAt);
      call.failedOn(replica, error);
      this.#elsewhere(call, now, { isCharged: true, mayWait: fault === 'replica' && this.#replicas.mayReturn(call.failures) });
    }
  }

  /** After an attempt has failed: unless another one is out, makes one at another replica, waits for one, or ends the call with all errors. */
  #elsewhere(call: Call, now: number, { isCharged, mayWait }: { readonly isCharged: boolean; readonly mayWait: boolean }): void {
    if (call.outstanding !== null) return;
    const replica = this.#replicas.choose(now, call.failures);
    if (replica !== null && (!isCharged || this.#afford('take', now))) {
      this.counts.retries++;
      this.#sendAnew(call, replica, now);
    } else if (mayWait) this.#park(call);
    else this.#end(call, this.#replicas.why(call.failures), 'beaten');
  }

  /** An attempt has been out for longer than most. */
  #hedge(attempt: Attempt, now: number): void {
    const { call, startedAt } = attempt;
    if (call.hedged || call.outstanding !== attempt) return;
    const replica = this.#replicas.choose(now, new Map([...call.failures, [attempt.replica, null]]));
    // One that owes a sign for as long is no better off.
    const isWorse = replica === null || !replica.isSound(now) || replica.link.unheardMs(now) >= now - startedAt;
    if (isWorse || !this.#afford('takeHedge', now)) {
      this.#hedging?.watchOn(attempt, now);
      return;
    }
    call.hedged = true;
    this.counts.hedges++;
    this.#sendAnew(call, replica, now);
  }

  #malformed(replica: Replica<Attempt>): void {
    const now = this.#clock.now();
    this.#blame(replica, now);
    // It may have been the answer to any of them.
    for (const attempt of [...replica.link.attempts]) this.#hedge(attempt, now);
  }

  #afford(how: 'take' | 'takeHedge', now: number): boolean {
    if (this.#budget[how](now)) return true;
    this.counts.overBudget++;
    return false;
  }

  #blame(replica: Replica<Attempt>, now: number, startedAt = now): void {
    if (replica.ejection.failed(now, startedAt)) this.counts.ejections++;
  }

  /** The deadline of some calls, which may have come while this event loop stood still: what has arrived meanwhile is read first. */
  #due(): void {
    for (const { link } of this.#replicas.all) link.readWaiting();
    this.#clock.afterPolling(() => {
      const now = this.#clock.now();
      for (let call = this.#calls.takeDue(now); call !== null; call = this.#calls.takeDue(now)) this.#endLate(call, now);
    });
  }

  #endLate(call: Call, now: number): void {
    const asked = [call.attempt, call.hedge].flatMap((attempt) => (attempt === null ? [] : [attempt.replica.link.endpoint]));
    const late = asked.length > 0 ? this.#unanswered(asked, Math.round(now - call.deadlineAt)) : this.#replicas.why(call.failures);
    this.#end(call, late, 'late');
  }

  #unanswered(endpoints: readonly string[], lateMs: number): TerabagError {
    const where = endpoints.length === 0 ? '' : ` at ${endpoints.join(' and ')}`;
    const late = `shard did not answer by the deadline: ${this.name}${where}`;
    if (lateMs < LATE_MS) return new TerabagError('deadline_exceeded', late, { shard: this.name });
    return new TerabagError('deadline_exceeded', `${late}; this process's event loop was itself late by ${lateMs} ms`, {
      shard: this.name,
      lateMs,
    });
  }

  #end(call: Call, error: TerabagError, how: Ending): void {
    this.#finish(call, how, this.#clock.now());
    call.reject(error);
  }

  /** Nothing is done for the call any more: shards are spared what nobody waits for. */
  #finish(call: Call, how: Ending, now: number): void {
    this.#calls.remove(call);
    this.#parked.delete(call);
    if (call.attempt !== null) this.#giveUp(call.attempt, how, now);
    if (call.hedge !== null) this.#giveUp(call.hedge, how, now);
  }

  #giveUp(attempt: Attempt, how: Ending, now: number): void {
    const { replica, startedAt } = attempt;
    replica.link.cancel(attempt);
    this.#detach(attempt);
    const outMs = now - startedAt;
    replica.givenUp(outMs, now);
    if (how === 'aborted') replica.ejection.probeWithdrawn(startedAt);
    // A request may be larger than its deadline allows; a replica that says nothing at all meanwhile is at fault.
    else if (replica.ejection.isProbed || (how === 'late' && replica.link.unheardMs(now) >= outMs)) this.#blame(replica, now, startedAt);
  }

  /** The attempt is over. */
  #detach(attempt: Attempt): void {
    const { call, replica } = attempt;
    this.#hedging?.unwatch(attempt);
    attempt.drop();
    if (call.attempt === attempt) call.attempt = null;
    else call.hedge = null;
    if (!replica.listed) this.#replicas.closeRetired();
  }
}
