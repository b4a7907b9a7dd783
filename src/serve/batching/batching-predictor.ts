import { type Clock, systemClock } from '../../clock.js';
import { oneOf, TerabagError } from '../../errors.js';
import type { ResolvedModel } from '../../model/graph.js';
import type { BatchMeter } from '../../observe/batch-meter.js';
import type { PredictorStats } from '../../observe/counters.js';
import { LatencyHistogram, type LatencySummary } from '../../observe/latency-histogram.js';
import type { PredictorMeter } from '../../observe/predictor-meter.js';
import { Admission, type Admitted } from '../../predictor/admission.js';
import {
  PRIORITIES,
  type Prediction,
  type PredictOptions,
  type Predictor,
  type PredictorOptions,
  type PredictRequest,
  type Priority,
  type Readiness,
} from '../../predictor/predictor.js';
import { Scratch } from '../../predictor/scratch.js';
import { shown } from '../../predictor/shown.js';
import type { Watched } from '../../predictor/watched.js';
import { isFinite32 } from '../../tables/finite.js';
import { mergeRequests, RequestCopy } from './request-copy.js';
import { RequestQueue } from './request-queue.js';
import { RunCost } from './run-cost.js';

const DEFAULT_MAX_DELAY_MS = 2;
const DEFAULT_MAX_ITEMS = 1024;
/** One runs while the next is on its way. */
const DEFAULT_MAX_RUNS = 2;
/** Requests that have waited as long as they may start beside so many times maxRuns at most: more would only wait elsewhere, where nobody takes turns. */
const MOST_RUNS = 4;
/** A request starts when so many times what it is expected to take is left to its deadline. */
const DEADLINE_RUNS = 2;
/** After a shard gave no answer in time: a request is run again, alone, when this part of its deadline is left. */
const LEFT_FOR_ANOTHER = 0.5;

/** deadlineMs, maxInFlight and maxInFlightBytes are of the callers' requests, here. */
export interface BatchingOptions extends Pick<PredictorOptions, 'deadlineMs' | 'maxInFlight' | 'maxInFlightBytes'> {
  /** How long a request waits at most for runs before it to end, ms; 0: every request is run alone, at once. Default 2. */
  readonly maxDelayMs?: number;
  /** Items of a run of several requests; default 1024. */
  readonly maxItems?: number;
  /** Runs at a time, beside those of requests that have waited as long as they may; default 2. */
  readonly maxRuns?: number;
  /** Counts batches and waits, for /metrics. */
  readonly meter?: BatchMeter;
  /** Told of each run that ended, for histograms. */
  readonly onRun?: (run: EndedRun) => void;
  /** @internal */
  readonly clock?: Clock;
}

/** A run of one request or more. */
export interface EndedRun {
  readonly requests: number;
  readonly items: number;
  readonly ms: number;
  /** Null: it gave scores. */
  readonly error: TerabagError | null;
}

/** What batching came to since the predictor was opened. @useDeclaredType */
export interface BatchingStats {
  /** Runs of several requests, and the requests and items in them. */
  readonly mergedRuns: number;
  readonly mergedRequests: number;
  readonly mergedItems: number;
  /** Requests that had a run of their own. */
  readonly aloneRequests: number;
  /** Of aloneRequests, those that were run again since the run that they were in failed. */
  readonly rerunRequests: number;
  /** Requests that went for one of a higher priority, or of a caller that has fewer waiting; overloaded to their callers. */
  readonly droppedRequests: number;
  /** Now: requests that wait, their items, and runs that have not ended. */
  readonly waitingRequests: number;
  readonly waitingItems: number;
  readonly runs: number;
  /** What a run is expected to take: so much, and so much for each item. */
  readonly fixedMs: number;
  readonly perItemMs: number;
  /** From the call to the start of the run, of requests that did not start at once. */
  readonly delayMs: LatencySummary;
}

/** A request that waits, or runs with others. */
interface Waiting {
  readonly admitted: Admitted<RequestCopy>;
  readonly priority: Priority;
  readonly caller: string;
  readonly items: number;
  readonly dueAt: number;
  resolve(prediction: Prediction): void;
  reject(error: unknown): void;
}

/**
 * Merges requests of many callers into one run of another predictor, where that costs less. The bits of a request do not depend on the others: the engine
 * computes every item by itself, and what a user's items share once a user. So a request waits only for what it gains:
 * - When nothing runs and nothing else comes, it starts at once, as without batching.
 * - While maxRuns runs are under way it waits for its end, together with those that come meanwhile, for maxDelayMs at most, or less when its deadline is near.
 * - Requests that come in turn after turn of the event loop are collected for as long as a run takes beside its items: waiting longer costs more than it saves.
 * - One that is so large that a run's other costs are small beside it starts at once.
 * When a run of several fails, each of them is run alone: an error is of the request that made it. ONNX models are not batched: their runtime's
 * arithmetic depends on the batch.
 */
export class BatchingPredictor implements Predictor {
  readonly modelHash: string;
  readonly model: ResolvedModel;
  readonly watched?: Watched;
  readonly meter?: PredictorMeter;
  readonly #admission: Admission<RequestCopy>;
  readonly #queue = new RequestQueue<Waiting>();
  readonly #cost = new RunCost();
  readonly #scratch = new Scratch();
  readonly #delays = new LatencyHistogram();
  readonly #clock: Clock;
  readonly #maxDelayMs: number;
  readonly #maxItems: number;
  readonly #maxRuns: number;
  #runs = 0;
  /** Requests that came in this turn of the event loop, while turns are watched: from one that came to the first turn without one. */
  #came = 0;
  #watching = false;
  /** When the queue was last empty. */
  #filledAt = 0;
  #timer: { readonly at: number; cancel(): void } | null = null;
  readonly #counts = { mergedRuns: 0, mergedRequests: 0, mergedItems: 0, aloneRequests: 0, rerunRequests: 0, droppedRequests: 0 };
  readonly #answers = { degraded: 0, nonFinite: 0 };

  constructor(
    private readonly inner: Predictor,
    private readonly options: BatchingOptions = {},
  ) {
    const { maxDelayMs = DEFAULT_MAX_DELAY_MS, maxItems = DEFAULT_MAX_ITEMS, maxRuns = DEFAULT_MAX_RUNS, clock = systemClock } = options;
    if (typeof maxDelayMs !== 'number' || !(maxDelayMs >= 0)) throw wrongNumber('maxDelayMs', 'a number, 0 or more', maxDelayMs);
    for (const [field, value] of Object.entries({ maxItems, maxRuns }))
      if (!Number.isInteger(value) || value < 1) throw wrongNumber(field, 'an integer, 1 or more', value);
    this.modelHash = inner.modelHash;
    this.model = inner.model;
    if (inner.watched !== undefined) this.watched = inner.watched;
    if (inner.meter !== undefined) this.meter = inner.meter;
    this.#clock = clock;
    this.#maxDelayMs = inner.model.onnx === undefined ? maxDelayMs : 0;
    this.#maxItems = maxItems;
    this.#maxRuns = maxRuns;
    this.#admission = new Admission(() => new RequestCopy(), { ...options, clock, makeRoom: (coming) => this.#makeRoom(coming) });
  }

  predict(request: PredictRequest, options: PredictOptions = {}): Promise<Prediction> {
    return this.#admission.run(options, (admitted) => this.#enter(request, options, admitted));
  }

  readiness(): Readiness {
    return this.inner.readiness();
  }

  /** Of the callers' requests; what is counted of shards is of runs. */
  stats(): PredictorStats {
    return { ...this.inner.stats(), ...this.#admission.counts, ...this.#answers };
  }

  batchingStats(): BatchingStats {
    return {
      ...this.#counts,
      waitingRequests: this.#queue.size,
      waitingItems: this.#queue.items,
      runs: this.#runs,
      fixedMs: this.#cost.fixedMs,
      perItemMs: this.#cost.perItemMs,
      delayMs: this.#delays.summary(),
    };
  }

  /** Refuses new requests, waits for those that wait or run, and closes the predictor that runs them. */
  async close(): Promise<void> {
    await this.#admission.close();
    await this.inner.close();
  }

  #enter(request: PredictRequest, options: PredictOptions, admitted: Admitted<RequestCopy>): Promise<Prediction> {
    const { priority = 'normal', caller = '', signal = null } = options;
    oneOf('priority', priority, PRIORITIES);
    if (typeof caller !== 'string') throw wrongNumber('caller', 'a string', caller);
    const first = this.#watchTurns();
    const alone = (): Promise<Prediction> => this.#runAlone(request, admitted, signal);
    if (this.#maxDelayMs === 0 || (first && this.#runs === 0 && this.#queue.size === 0)) return alone();
    if (request?.users !== undefined) return alone();
    const copy = admitted.memory;
    copy.take(this.model, request);
    const { items } = copy;
    if (items === 0 || items >= Math.min(this.#maxItems, this.#cost.enoughItems)) return alone();
    admitted.hold(copy.bytes);
    return new Promise((resolve, reject) => {
      const dueAt = Math.min(
        admitted.startedAt + this.#maxDelayMs,
        admitted.deadlineAt - DEADLINE_RUNS * this.#cost.expectedMs(this.#queue.items + items),
      );
      const waiting: Waiting = { admitted, priority, caller, items, dueAt, resolve, reject };
      if (this.#queue.size === 0) this.#filledAt = admitted.startedAt;
      this.#queue.add(waiting);
      this.options.meter?.enqueued();
      admitted.onOver = () => {
        this.#queue.delete(waiting);
        this.options.meter?.dequeued((this.#clock.now() - admitted.startedAt) / 1000);
        reject(null);
      };
      if (this.#queue.items >= this.#enough() && this.#runs < this.#maxRuns) this.#start();
      this.#setTimer();
    });
  }

  /** Whether the request is the first for a turn of the event loop or more. */
  #watchTurns(): boolean {
    this.#came++;
    if (this.#watching) return false;
    this.#watching = true;
    this.#clock.afterPolling(() => this.#turn());
    return true;
  }

  #turn(): void {
    const came = this.#came;
    this.#came = 0;
    if (came > 0) this.#clock.afterPolling(() => this.#turn());
    else this.#watching = false;
    if (this.#queue.size === 0 || this.#runs >= this.#maxRuns) return;
    const collectMs = Math.min(this.#cost.fixedMs, this.#maxDelayMs);
    if (came === 0 || this.#queue.items >= this.#enough() || this.#clock.now() - this.#filledAt >= collectMs) this.#start();
    this.#setTimer();
  }

  /** Items of a run to which no more are added. */
  #enough(): number {
    return Math.min(this.#maxItems, this.#cost.enoughItems);
  }

  #setTimer(): void {
    const { dueAt } = this.#queue;
    const size = this.#runs < MOST_RUNS * this.#maxRuns ? this.#queue.size : 0;
    if (this.#timer !== null && (size === 0 || dueAt < this.#timer.at)) {
      this.#timer.cancel();
      this.#timer = null;
    }
    if (size === 0 || this.#timer !== null) return;
    const due = (): void => {
      this.#timer = null;
      // A timer may be early by a millisecond.
      if (this.#queue.size > 0 && this.#clock.now() >= this.#queue.dueAt) this.#start();
      this.#setTimer();
    };
    this.#timer = { at: dueAt, cancel: this.#clock.after(Math.max(0, dueAt - this.#clock.now()), due) };
  }

  /** As long as a run may start. */
  #startAll(): void {
    while (this.#queue.size > 0 && this.#runs < this.#maxRuns) this.#start();
    this.#setTimer();
  }

  /** Starts a run of what waits, as far as it fits: the deadlines of all have to hold. */
  #start(): void {
    const members: Waiting[] = [];
    const now = this.#clock.now();
    let [items, deadlineAt] = [0, Number.POSITIVE_INFINITY];
    for (let next = this.#queue.next(); next !== null; next = this.#queue.next()) {
      const { admitted } = next;
      if (now >= admitted.deadlineAt) {
        admitted.fail(late(admitted.deadlineMs));
        continue;
      }
      const [allItems, earliest] = [items + next.items, Math.min(deadlineAt, admitted.deadlineAt)];
      if (members.length > 0 && (allItems > this.#enough() || now + this.#cost.expectedMs(allItems) > earliest)) break;
      this.#queue.take(next);
      members.push(next);
      [items, deadlineAt] = [allItems, earliest];
      this.#delays.record(now - admitted.startedAt);
      this.options.meter?.dequeued((now - admitted.startedAt) / 1000);
    }
    this.#queue.updateDueAt();
    this.#filledAt = now;
    if (members.length === 0) return;
    if (members.length === 1) {
      this.#counts.aloneRequests++;
    } else {
      this.#counts.mergedRuns++;
      this.#counts.mergedRequests += members.length;
      this.#counts.mergedItems += items;
    }
    this.#run(members, items, deadlineAt - now);
  }

  #run(members: readonly Waiting[], items: number, deadlineMs: number): void {
    const cancel = new AbortController();
    let wanted = members.length;
    for (const { admitted, reject } of members) {
      admitted.onOver = () => {
        if (--wanted === 0) cancel.abort();
        reject(null);
      };
    }
    const copies = members.map(({ admitted }) => admitted.memory);
    this.#measured(members.length, items, () =>
      this.inner.predict(mergeRequests(this.model, copies, this.#scratch), { deadlineMs, signal: cancel.signal }),
    ).then(
      (prediction) => this.#answer(members, prediction),
      (error: unknown) => this.#failed(members, TerabagError.from(error)),
    );
  }

  /** A run, from its start to its end. */
  async #measured(requests: number, items: number, run: () => Promise<Prediction>): Promise<Prediction> {
    const startedAt = this.#clock.now();
    const ended = (prediction: Prediction | null, error: unknown): void => {
      this.#runs--;
      const ms = this.#clock.now() - startedAt;
      if (prediction !== null) this.#cost.add(prediction.items, ms);
      this.options.onRun?.({
        requests,
        items: prediction?.items ?? items,
        ms,
        error: prediction === null ? TerabagError.from(error) : null,
      });
      this.#startAll();
    };
    this.#runs++;
    this.options.meter?.ran(requests);
    try {
      const prediction = await run();
      ended(prediction, null);
      return prediction;
    } catch (error) {
      ended(null, error);
      throw error;
    }
  }

  #runAlone(request: PredictRequest, { deadlineMs }: Admitted<RequestCopy>, signal: AbortSignal | null): Promise<Prediction> {
    this.#counts.aloneRequests++;
    return this.#measured(1, 0, () => this.inner.predict(request, { deadlineMs, signal })).then((prediction) => {
      this.#count(prediction);
      return prediction;
    });
  }

  /** Gives each request its part of the answer. */
  #answer(members: readonly Waiting[], prediction: Prediction): void {
    const { scores, outputs, scoreDim, ...rest } = prediction;
    let from = 0;
    for (const { items, admitted, resolve } of members) {
      const to = from + items;
      if (!admitted.over) {
        const part = (values: Float32Array): Float32Array => {
          const dim = values.length / prediction.items;
          return members.length === 1 ? values : values.slice(from * dim, to * dim);
        };
        const own: Prediction = {
          ...rest,
          scoreDim,
          items,
          scores: part(scores),
          ...(outputs && { outputs: Object.fromEntries(Object.entries(outputs).map(([name, values]) => [name, part(values)])) }),
        };
        this.#count(own);
        resolve(own);
      }
      from = to;
    }
  }

  #count({ degraded, scores }: Prediction): void {
    if (degraded) this.#answers.degraded++;
    if (!isFinite32(scores)) this.#answers.nonFinite++;
  }

  /** Of several requests, any may be what is wrong with their run: each is run alone. */
  #failed(members: readonly Waiting[], error: TerabagError): void {
    const ofWaiting = error.code === 'deadline_exceeded' || error.code === 'shard_unavailable';
    for (const member of members) {
      const { admitted } = member;
      if (admitted.over) continue;
      const leftMs = admitted.deadlineAt - this.#clock.now();
      const final = members.length === 1 || error.code === 'closed' || leftMs <= 0;
      if (final || (ofWaiting && leftMs < LEFT_FOR_ANOTHER * admitted.deadlineMs)) {
        member.reject(error);
        continue;
      }
      this.#counts.aloneRequests++;
      this.#counts.rerunRequests++;
      this.#run([member], member.items, leftMs);
    }
  }

  #makeRoom({ priority = 'normal', caller = '' }: PredictOptions): boolean {
    if (!PRIORITIES.includes(priority)) return false;
    const dropped = this.#queue.toDrop({ priority, caller });
    if (dropped === null) return false;
    this.#counts.droppedRequests++;
    dropped.admitted.fail(
      TerabagError.withoutStack(
        'overloaded',
        'too many requests wait, and this one went for another of a higher priority or a caller with fewer',
        {
          waiting: this.#queue.size,
        },
      ),
    );
    return true;
  }
}

const late = (deadlineMs: number): TerabagError =>
  TerabagError.withoutStack('deadline_exceeded', `the deadline passed before the request could start: ${deadlineMs} ms`, { deadlineMs });

const wrongNumber = (field: string, right: string, value: unknown): TerabagError =>
  new TerabagError('invalid_argument', `${field} has to be ${right}: ${shown(value)}`, { field });
