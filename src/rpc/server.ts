import { availableParallelism } from 'node:os';
import { ByteBudget } from '../byte-budget.js';
import { type Clock, systemClock } from '../clock.js';
import { native } from '../engine/native.js';
import type { SparseBatch } from '../engine/sparse-batch.js';
import { TerabagError } from '../errors.js';
import { ServiceTimes } from '../observe/service-times.js';
import { AggregatedLog } from './aggregated-log.js';
import { decodeClientMessage, encodeVersionMismatch, setSerializeUs, shardMessageParts } from './codec.js';
import { FairQueue } from './fair-queue.js';
import type { ClientMessage, ShardMessage, ShardState } from './messages.js';
import { PeerClocks } from './peer-clocks.js';
import type { ShardStats } from './shard-stats.js';
import { type Lent, messageBuffers } from './transport/buffer-pool.js';
import { MAX_POOLED_BYTES, type Peer, type ServerTransport } from './transport/transport.js';
import { type ServedVersion, sameStamp, shownStamp, shownVersion, stampOf } from './version.js';

type PoolMessage = Extract<ClientMessage, { kind: 'pool' }>;

/** What a server answers requests with. */
export interface Pooling {
  /** Floats of the answer; throws a TerabagError on lengths that do not fit together. */
  outputLength(segments: Uint8Array, offsets: Uint8Array): number;
  /** Into [bags, dim] float32 per segment; a promise when threads do it. */
  pool(batch: SparseBatch, into: Float32Array, times: ServiceTimes | null): Promise<void> | undefined;
}

export interface ServerOptions {
  readonly shard: string;
  readonly version: ServedVersion;
  readonly kernels: string;
  readonly pooling: Pooling;
  readonly stats: () => ShardStats;
  /** Requests beyond, waiting or being pooled, are answered with overloaded. */
  readonly maxInFlight: number;
  /** Bytes of requests and of their answers that may be held at once, default 1 GiB; one peer may hold half. */
  readonly maxInFlightBytes?: number;
  /**
   * Requests that are handed to the threads at once; the others wait here, where they can expire or be cancelled. Default twice the cores: a thread
   * that is done finds the next.
   */
  readonly maxPooling?: number;
  readonly log: (level: 'info' | 'warn', fields: Readonly<Record<string, unknown>>, message: string) => void;
  readonly clock?: Clock;
}

/** A request between its arrival and its answer. */
interface Job {
  readonly peer: Peer;
  readonly message: PoolMessage;
  readonly received: Lent;
  readonly receivedAt: number;
  readonly deadlineAt: number;
  readonly times: ServiceTimes | null;
  /** Floats of the answer. */
  length: number;
  /** Of the request and its answer, while they are held. */
  bytes: number;
  /** Nobody waits for its answer. */
  isUnwanted: boolean;
}

/** What a peer has in flight. */
interface InFlight {
  /** By id. One that is used twice at once is the later request's. */
  readonly jobs: Map<number, Job>;
  readonly budget: ByteBudget;
}

/** What a server counts; see SHARD_STATS. */
const NONE = {
  requests: 0,
  errors: 0,
  malformed: 0,
  skew: 0,
  overloaded: 0,
  expired: 0,
  cancelled: 0,
  abandoned: 0,
  undeliverable: 0,
} satisfies Partial<ShardStats>;
export type ServerCounts = Readonly<typeof NONE> & Pick<ShardStats, 'inFlight' | 'inFlightBytes'>;

/** Peers that are known to be gone, of which messages may still wait in a socket; names are not used again. */
const MAX_GONE = 4096;
const DEFAULT_MAX_IN_FLIGHT_BYTES = 2 ** 30;
/** Of that, what one peer may hold. */
const PEER_SHARE = 0.5;

/**
 * The shard's side of the protocol: greets, pools within deadlines, forgets what is cancelled and who is gone, drains. Keeps nothing of a request
 * after its answer. Messages come through receive; answers leave by the transport that it is attached to.
 */
export class ShardServer {
  state: ShardState = 'ready';
  #transport: ServerTransport | null = null;
  /** Of peers that have something in flight, which waits or is pooled: not every transport tells who is gone. */
  readonly #inFlightOf = new Map<Peer, InFlight>();
  readonly #waiting = new FairQueue<Peer, Job>();
  readonly #gone = new Set<Peer>();
  readonly #budget: ByteBudget;
  #inFlight = 0;
  #pooling = 0;
  /** Those who wait for the last request to end. */
  readonly #draining = new Set<() => void>();
  readonly #idleTimes: ServiceTimes[] = [];
  readonly #counts: Record<keyof typeof NONE, number> = { ...NONE };
  readonly #clock: Clock;
  readonly #stamp: Uint8Array;
  readonly #maxPooling: number;
  readonly #clocks: PeerClocks;
  readonly #malformed: AggregatedLog;

  constructor(private readonly options: ServerOptions) {
    this.#clock = options.clock ?? systemClock;
    this.#stamp = stampOf(options.version);
    this.#budget = new ByteBudget(options.maxInFlightBytes ?? DEFAULT_MAX_IN_FLIGHT_BYTES);
    this.#maxPooling = options.maxPooling ?? 2 * availableParallelism();
    this.#clocks = new PeerClocks((peer, leastMs) => this.#transport?.setClockOffset(peer, leastMs));
    this.#malformed = new AggregatedLog(this.#clock, (fields) => options.log('warn', fields, 'malformed messages'));
  }

  attach(transport: ServerTransport): void {
    this.#transport = transport;
  }

  /** With what the transport answered by itself. */
  get counts(): ServerCounts {
    const counts: Record<string, number> & Record<keyof typeof NONE, number> = { ...this.#counts };
    for (const [name, count] of Object.entries(this.#transport?.served() ?? {})) counts[name] = (counts[name] ?? 0) + count;
    return { ...counts, inFlight: this.#inFlight, inFlightBytes: this.#budget.held };
  }

  /** Refuses new requests and lets those in flight end, for at most ms. */
  async drain(ms: number): Promise<void> {
    this.state = 'draining';
    this.#transport?.serve(null);
    if (this.#inFlight > 0) {
      await new Promise<void>((resolve) => {
        const end = (): void => {
          this.#draining.delete(end);
          cancel();
          resolve();
        };
        const cancel = this.#clock.after(ms, end);
        this.#draining.add(end);
      });
    }
    this.#malformed.flush();
  }

  receive(peer: Peer, received: Lent): void {
    const receivedAt = this.#clock.now();
    let message: ClientMessage;
    try {
      message = decodeClientMessage(received.bytes);
    } catch (error) {
      received.release();
      this.#receiveUnread(peer, TerabagError.from(error));
      return;
    }
    if (this.#gone.has(peer)) {
      if (message.kind === 'pool') {
        this.#counts.requests++;
        this.#counts.abandoned++;
      }
      received.release();
      return;
    }
    if (message.kind === 'pool') {
      this.#admit(peer, message, receivedAt, received);
      return;
    }
    received.release();
    switch (message.kind) {
      case 'hello': {
        const { shard, version, kernels } = this.options;
        this.#clocks.waited(peer, message.sentAtMs, receivedAt);
        this.#reply(peer, { kind: 'welcome', shard, version, kernels, state: this.state });
        return;
      }
      case 'ping':
        this.#clocks.waited(peer, message.sentAtMs, receivedAt);
        this.#reply(peer, { kind: 'pong', id: message.id, stamp: this.#stamp, state: this.state, inFlight: this.#inFlight });
        return;
      case 'stats':
        this.#reply(peer, { kind: 'stats', id: message.id, stamp: this.#stamp, stats: this.options.stats() });
        return;
      case 'cancel':
        this.#cancel(peer, message.id);
    }
  }

  /** Its connection has ended: what it asked for, or what is still read of it, is not done, and nothing is kept of it. */
  forget(peer: Peer): void {
    this.#clocks.forget(peer);
    const [oldest] = this.#gone;
    if (this.#gone.size >= MAX_GONE && oldest !== undefined) this.#gone.delete(oldest);
    this.#gone.add(peer);
    for (const job of this.#waiting.takeAll(peer)) {
      this.#counts.abandoned++;
      this.#end(job);
    }
    for (const job of this.#inFlightOf.get(peer)?.jobs.values() ?? []) {
      this.#counts.abandoned++;
      this.#drop(job);
    }
  }

  #receiveUnread(peer: Peer, error: TerabagError): void {
    this.#counts.malformed++;
    this.#malformed.add(error.message);
    // Without an id, nobody can be answered what else is wrong.
    if (error.code === 'version_mismatch') this.#send(peer, [encodeVersionMismatch(error)]);
  }

  #admit(peer: Peer, message: PoolMessage, receivedAt: number, received: Lent): void {
    this.#counts.requests++;
    this.#inFlight++;
    const times = message.timed ? (this.#idleTimes.pop() ?? new ServiceTimes()) : null;
    times?.begin(receivedAt);
    const deadlineAt = receivedAt + message.remainingMs - this.#clocks.waited(peer, message.sentAtMs, receivedAt);
    const job: Job = { peer, message, received, receivedAt, deadlineAt, times, length: 0, bytes: 0, isUnwanted: false };
    try {
      this.#check(job);
    } catch (error) {
      this.#fail(job, error);
      return;
    }
    if (this.#pooling < this.#maxPooling) this.#start(job);
    else this.#waiting.add(peer, job);
  }

  #check(job: Job): void {
    const { shard, version, maxInFlight } = this.options;
    const { stamp } = job.message;
    if (!sameStamp(stamp, this.#stamp)) {
      this.#counts.skew++;
      throw new TerabagError(
        'version_skew',
        `the request is of another version than the shard: ${shard} serves ${shownVersion(version)}; asked for ${shownStamp(stamp)}`,
        { shard, serves: shownVersion(version), asked: shownStamp(stamp) },
      );
    }
    if (this.state === 'draining') throw new TerabagError('draining', `the shard drains: ${shard}`);
    if (this.#inFlight > maxInFlight)
      throw new TerabagError('overloaded', `too many requests in flight on shard: ${shard}, ${this.#inFlight}`);
    this.#refuseExpired(job);
    this.#hold(job);
  }

  /** Enters a request as in flight, and takes its bytes and those of its answer from the budgets, before there is memory for the answer. */
  #hold(job: Job): void {
    const { peer, received, message } = job;
    job.length = this.options.pooling.outputLength(message.batch.segments, message.batch.offsets);
    const answerBytes = job.length * 4;
    if (answerBytes > MAX_POOLED_BYTES)
      throw new TerabagError(
        'bad_message',
        `the answer would be longer than a message may be: ${answerBytes} bytes, limit ${MAX_POOLED_BYTES}`,
      );
    const bytes = received.bytes.byteLength + answerBytes;
    const ofPeer = this.#inFlightOf.get(peer) ?? { jobs: new Map(), budget: new ByteBudget(this.#budget.most * PEER_SHARE) };
    const { jobs, budget } = ofPeer;
    if (answerBytes > (this.#transport?.room(peer) ?? 0))
      throw this.#tooManyBytes('answers that the peer has not taken leave no room', bytes);
    if (!budget.take(bytes)) throw this.#tooManyBytes(`requests of one peer hold ${budget.held} bytes, limit ${budget.most}`, bytes);
    if (!this.#budget.take(bytes)) {
      budget.giveBack(bytes);
      throw this.#tooManyBytes(`requests in flight hold ${this.#budget.held} bytes, limit ${this.#budget.most}`, bytes);
    }
    this.#inFlightOf.set(peer, ofPeer);
    jobs.set(message.id, job);
    job.bytes = bytes;
  }

  #tooManyBytes(what: string, bytes: number): TerabagError {
    const { shard } = this.options;
    return new TerabagError('overloaded', `too many bytes on shard ${shard}: ${what}; this request and its answer ${bytes}`, {
      shard,
      bytes,
    });
  }

  /** Of a request that was refused, nothing is held. */
  #giveBack({ peer, bytes }: Job): void {
    if (bytes === 0) return;
    const { budget } = this.#inFlightOf.get(peer) as InFlight;
    budget.giveBack(bytes);
    this.#budget.giveBack(bytes);
    if (budget.held === 0) this.#inFlightOf.delete(peer);
  }

  /** Nobody waits for it any more: it was sent again, or waited, until its deadline. */
  #refuseExpired({ deadlineAt, message: { remainingMs } }: Job): void {
    if (this.#clock.now() < deadlineAt) return;
    this.#counts.expired++;
    throw new TerabagError(
      'deadline_exceeded',
      `the deadline passed on the shard: ${this.options.shard}, ${Math.round(remainingMs)} ms were left when it was sent`,
    );
  }

  #start(job: Job): void {
    this.#pooling++;
    this.#pool(job)
      .then(
        () => this.#end(job),
        (error: unknown) => this.#fail(job, error),
      )
      .finally(() => {
        this.#pooling--;
        this.#startNext();
      });
  }

  #startNext(): void {
    while (this.#pooling < this.#maxPooling) {
      const job = this.#waiting.take();
      if (job === null) return;
      try {
        this.#refuseExpired(job);
        this.#start(job);
      } catch (error) {
        this.#fail(job, error);
      }
    }
  }

  /** Pools and answers. */
  async #pool(job: Job): Promise<void> {
    const { peer, message, receivedAt, times, length } = job;
    const { batch, id } = message;
    const { pooling } = this.options;
    const answer = messageBuffers.take(length * 4);
    try {
      times?.endDispatch();
      await pooling.pool(batch, new Float32Array(answer.bytes.buffer, 0, length), times);
      times?.endPooling();
      if (job.isUnwanted) return;
      this.#refuseExpired(job);
      const serviceUs = (this.#clock.now() - receivedAt) * 1000;
      const stamp = this.#stamp;
      const checksum = native.answerChecksum(id, stamp, answer.bytes);
      this.#reply(peer, { kind: 'pooled', id, stamp, serviceUs, pooled: answer.bytes, checksum, stages: times?.stages ?? null }, times);
    } finally {
      answer.release();
    }
  }

  /** What waits is dropped; of what is being pooled, the answer is. */
  #cancel(peer: Peer, id: number): void {
    const job = this.#inFlightOf.get(peer)?.jobs.get(id);
    if (job === undefined) return;
    this.#counts.cancelled++;
    this.#drop(job);
    if (this.#waiting.delete(peer, job)) this.#end(job);
  }

  /** Its answer is not sent. */
  #drop(job: Job): void {
    job.isUnwanted = true;
    this.#unlist(job);
  }

  #fail(job: Job, thrown: unknown): void {
    const { peer, message, isUnwanted } = job;
    this.#end(job);
    if (isUnwanted) return;
    this.#counts.errors++;
    const { code, message: text, details } = TerabagError.from(thrown);
    if (code === 'overloaded') this.#counts.overloaded++;
    this.#reply(peer, { kind: 'error', id: message.id, code, message: text, details });
  }

  #end(job: Job): void {
    const { received, times } = job;
    this.#unlist(job);
    this.#giveBack(job);
    received.release();
    if (times !== null) this.#idleTimes.push(times);
    this.#inFlight--;
    if (this.#inFlight === 0) for (const end of [...this.#draining]) end();
  }

  /** Its id names it no more. */
  #unlist(job: Job): void {
    const jobs = this.#inFlightOf.get(job.peer)?.jobs;
    if (jobs?.get(job.message.id) === job) jobs.delete(job.message.id);
  }

  #reply(peer: Peer, message: ShardMessage, times: ServiceTimes | null = null): void {
    const parts = shardMessageParts(message);
    if (times !== null) setSerializeUs(parts, times.endSerialization());
    this.#send(peer, parts);
  }

  #send(peer: Peer, parts: readonly Uint8Array[]): void {
    void this.#transport?.send(peer, parts).then((delivered) => {
      if (!delivered) this.#counts.undeliverable++;
    });
  }
}
