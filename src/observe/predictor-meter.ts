import type { ServedVersion } from '../rpc/version.js';
import { Buckets, COUNT_BOUNDS, DURATION_BOUNDS } from './buckets.js';
import type { OwnStats, RpcCounts } from './counters.js';
import { KINDS, type PhaseKind } from './layout.js';
import { type Job, type LookedUp, NO_STAGES, type Stages } from './stages.js';

/** Stages of a request that are measured, as labels say them; the first ones in the order of KINDS. */
export const METERED_STAGES = ['admission', 'check', 'partition', 'place', 'finish', 'dense', 'own_tables', 'shards'] as const;
const SHARDS = METERED_STAGES.indexOf('shards');
const NO_PHASE = -1;

/** The code of requests that were answered, beside those of errors. */
export const OK = 'ok';

/** A replica of a shard, as main sees it. */
export interface MeteredReplica {
  readonly endpoint: string;
  readonly ready: boolean;
  readonly ejected: boolean;
  readonly inFlight: number;
}

/** A shard, as main sees it. */
export interface MeteredShard {
  readonly name: string;
  /** Whether some replica takes requests. */
  readonly ready: boolean;
  readonly counts: RpcCounts;
  replicas(): readonly MeteredReplica[];
}

/** What a predictor tells of itself, at a cost that does not grow with its shards. */
export interface MeteredPredictor {
  readonly version: ServedVersion;
  ownStats(): OwnStats;
  readonly shards: readonly MeteredShard[];
}

/**
 * Counts what a predictor's requests take, stage by stage, for /metrics: a PredictorOptions.meter. All requests are measured, at a dozen clock reads
 * each.
 */
export class PredictorMeter {
  /** Requests that ended, by the code of their error or OK. */
  readonly codes = new Map<string, number>([[OK, 0]]);
  /** Seconds, of requests that were answered: from the call to the answer. @internal */
  readonly durations = new Buckets(DURATION_BOUNDS);
  /** Likewise in the order of METERED_STAGES, of those that they came to. @internal */
  readonly stages: readonly Buckets[] = METERED_STAGES.map(() => new Buckets(DURATION_BOUNDS));
  /** Items of a request that was answered. @internal */
  readonly items = new Buckets(COUNT_BOUNDS);
  lookups = 0;
  /** Null before it is opened. @internal */
  predictor: MeteredPredictor | null = null;
  readonly #idle: MeteredRequest[] = [];

  /** Names the predictor that it measures. @internal */
  watch(predictor: MeteredPredictor): void {
    this.predictor = predictor;
  }

  /** Listens to a request that begins now, and passes on what it hears. @internal */
  open(inner: Stages = NO_STAGES): Stages {
    const request = this.#idle.pop() ?? new MeteredRequest(this);
    request.open(inner);
    return request;
  }

  /** @internal */
  giveBack(request: MeteredRequest): void {
    this.#idle.push(request);
  }
}

/** Sums what the stages of one request take; used again when it has ended. */
class MeteredRequest implements Stages {
  /** ms, in the order of METERED_STAGES; less than 0: it did not come to that stage. */
  readonly #spent = new Float64Array(METERED_STAGES.length);
  /** startedAt, phaseAt, askedAt, placedAt: in an array, as doubles of an object that change are boxed. */
  readonly #at = new Float64Array(4);
  #phase = NO_PHASE;
  #round = NO_PHASE;
  #items = 0;
  #lookups = 0;
  #holds = 0;
  #open = false;
  #inner: Stages = NO_STAGES;

  constructor(private readonly meter: PredictorMeter) {}

  open(inner: Stages): void {
    this.#inner = inner;
    this.#spent.fill(-1);
    this.#at[0] = this.#at[1] = performance.now();
    this.#phase = KINDS.admission;
    this.#round = NO_PHASE;
    this.#items = this.#lookups = 0;
    this.#open = true;
  }

  setItems(items: number, bags: readonly LookedUp[]): void {
    this.#items = items;
    let lookups = 0;
    for (const { input } of bags) lookups += input.indices.length;
    this.#lookups = lookups;
    this.#inner.setItems(items, bags);
  }

  enter(phase: (typeof KINDS)[PhaseKind], batch = 0, round = 0): void {
    const now = performance.now();
    this.#endPhase(now);
    this.#phase = phase;
    this.#at[1] = now;
    if (phase === KINDS.place) this.#at[3] = now;
    this.#inner.enter(phase, batch, round);
  }

  leave(): void {
    this.#endPhase(performance.now());
    this.#inner.leave();
  }

  runJob(kind: (typeof KINDS)['dense' | 'pool'], batch: number, round: number, run: Job): Promise<void> | undefined {
    const startedAt = performance.now();
    this.#endPhase(startedAt);
    const running = this.#inner.runJob(kind, batch, round, run);
    if (running !== undefined) return running.then(() => this.#add(kind, performance.now() - startedAt));
    this.#add(kind, performance.now() - startedAt);
    return undefined;
  }

  startRpc(batch: number, round: number, shard: number): ReturnType<Stages['startRpc']> {
    if (round > this.#round) {
      this.#endRound();
      this.#round = round;
      this.#at[2] = this.#at[3] = performance.now();
    }
    return this.#inner.startRpc(batch, round, shard);
  }

  hold(): void {
    this.#holds++;
    this.#inner.hold();
  }

  letGo(): void {
    this.#holds--;
    this.#inner.letGo();
    this.#giveBack();
  }

  close(error: string | null): void {
    if (!this.#open) return;
    this.#open = false;
    const code = error ?? OK;
    const { codes } = this.meter;
    codes.set(code, (codes.get(code) ?? 0) + 1);
    if (error === null) this.#answered();
    this.#inner.close(error);
    this.#giveBack();
  }

  #answered(): void {
    const { meter } = this;
    const now = performance.now();
    this.#endPhase(now);
    this.#endRound();
    meter.durations.record((now - (this.#at[0] as number)) / 1000);
    for (let stage = 0; stage < METERED_STAGES.length; stage++) {
      const spent = this.#spent[stage] as number;
      if (spent >= 0) meter.stages[stage]?.record(spent / 1000);
    }
    meter.items.record(this.#items);
    meter.lookups += this.#lookups;
  }

  #endPhase(now: number): void {
    if (this.#phase === NO_PHASE) return;
    this.#add(this.#phase, now - (this.#at[1] as number));
    this.#phase = NO_PHASE;
  }

  /** From the first message of a round to where its last answer was placed. */
  #endRound(): void {
    if (this.#round !== NO_PHASE) this.#add(SHARDS, (this.#at[3] as number) - (this.#at[2] as number));
  }

  #add(stage: number, ms: number): void {
    this.#spent[stage] = Math.max(0, this.#spent[stage] as number) + ms;
  }

  #giveBack(): void {
    if (!this.#open && this.#holds === 0) this.meter.giveBack(this);
  }
}
