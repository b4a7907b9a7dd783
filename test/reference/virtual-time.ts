import { TerabagError } from '../../src/errors.js';
import type { Pacer } from '../../src/lab/load/pacer.js';
import type { ResolvedModel } from '../../src/model/graph.js';
import type { PredictorStats } from '../../src/observe/counters.js';
import type { Prediction, PredictOptions, Predictor, Readiness } from '../../src/predictor/predictor.js';
import { NO_STATS } from './no-stats.js';

/**
 * Time that passes only when everybody waits: the earliest timer is due next. Load on a simulated server takes no time and is the same every
 * time.
 */
export class VirtualTime implements Pacer {
  #now = 0;
  #order = 0;
  #running = false;
  readonly #timers: { readonly at: number; readonly order: number; readonly due: () => void }[] = [];
  /** How late the next waits end, ms: a generator that oversleeps. */
  oversleepMs = 0;

  now(): number {
    return this.#now;
  }

  async until(at: number): Promise<number> {
    await this.at(Math.max(at, this.#now) + this.oversleepMs);
    return this.oversleepMs;
  }

  waitingCpuUs(): number {
    return 0;
  }

  at(at: number): Promise<void> {
    return new Promise((due) => {
      const timer = { at, order: this.#order++, due };
      let place = this.#timers.length;
      while (place > 0 && (this.#timers[place - 1] as { at: number }).at > at) place--;
      this.#timers.splice(place, 0, timer);
      if (!this.#running) {
        this.#running = true;
        setImmediate(() => this.#next());
      }
    });
  }

  /** Somebody works without giving way: time passes, and nobody else gets to run. */
  block(ms: number): void {
    this.#now += ms;
  }

  #next(): void {
    const timer = this.#timers.shift();
    this.#running = timer !== undefined;
    if (timer === undefined) return;
    this.#now = Math.max(this.#now, timer.at);
    timer.due();
    // Whatever follows from it happens in microtasks, before the next timer is due.
    setImmediate(() => this.#next());
  }
}

export interface Service {
  readonly time: VirtualTime;
  /** Service time of the n-th request, counted from 0, ms. */
  readonly serviceMs: (n: number) => number;
}

const PREDICTION: Prediction = { scores: new Float32Array(1), items: 1, scoreDim: 1, modelHash: 'simulated' };

/** One server that handles requests in turn, each for its service time: M/D/1 under Poisson load when that is constant. Those that would be too late are not served. */
export class QueueingServer implements Predictor {
  readonly modelHash = 'simulated';
  readonly model: ResolvedModel = { dense: [], bags: [], layers: [], output: 0, outputDim: 1 };
  requests = 0;
  #freeAt = 0;

  constructor(private readonly service: Service) {}

  async predict(_: unknown, { deadlineMs = 1000 }: PredictOptions = {}): Promise<Prediction> {
    const { time, serviceMs } = this.service;
    const now = time.now();
    const endsAt = Math.max(now, this.#freeAt) + serviceMs(this.requests++);
    if (endsAt <= now + deadlineMs) {
      this.#freeAt = endsAt;
      await time.at(endsAt);
      return PREDICTION;
    }
    await time.at(now + deadlineMs);
    throw new TerabagError('deadline_exceeded', 'the simulated server was too late');
  }

  readiness(): Readiness {
    return { ready: true, missing: [] };
  }

  stats(): PredictorStats {
    return { ...NO_STATS, requests: this.requests };
  }

  async close(): Promise<void> {}
}
