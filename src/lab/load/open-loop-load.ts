import { TerabagError } from '../../errors.js';
import type { PredictRequest } from '../../predictor/predictor.js';
import { type Arrivals, arrivalTimes } from './arrivals.js';
import { DEFAULT_DEADLINE_MS, type Load, type LoadRun, Outcomes } from './load-run.js';
import { LoopPacer, type Pacer } from './pacer.js';
import { ProcessMeter } from './process-meter.js';

export interface OpenLoopOptions extends Load {
  readonly arrivals: Arrivals;
  /** Requests meant to be sent before count for nothing; the load runs on from one to the other without a gap. */
  readonly warmUpMs: number;
  readonly durationMs: number;
  /** Requests beyond wait in the generator, and their latency with them; default 1024, as predictors refuse more. */
  readonly maxInFlight?: number;
  /** Default a LoopPacer. */
  readonly pacer?: Pacer;
}

/** A send that the generator makes later than this after its intended time is late. */
const LATE_MS = 1;
/** A run is invalid when more than this share of the sends was late, half of what P99 leaves out; a single one is let pass. */
const MOST_LATE = 0.005;
const LONGEST_WAIT_MS = 100;

/**
 * Sends requests at times that were fixed before, whether or not the earlier ones are answered, as independent users do. Latency counts from the
 * intended time, so that a stall lengthens every request that would have been sent in it (no coordinated omission): those that the event
 * loop was too busy to send, and those held back at maxInFlight. A held request whose deadline passes fails unsent.
 *
 * The generator runs on the event loop of the predictor, since an application that embeds the predictor does too. The run is invalid when the
 * generator itself is late; see LoopPacer for what is its fault and what is the system's. One request is sent per turn of the loop, as
 * requests from sockets would come.
 */
export async function runOpenLoopLoad(options: OpenLoopOptions): Promise<LoadRun> {
  const pacer = options.pacer ?? new LoopPacer();
  const meter = new ProcessMeter(options.shardCpu);
  try {
    return await new OpenLoop(options, pacer, meter).run();
  } finally {
    meter.close();
  }
}

class OpenLoop {
  readonly #outcomes = new Outcomes();
  readonly #maxInFlight: number;
  readonly #deadlineMs: number;
  #inFlight = 0;
  #sent = 0;
  #late = 0;
  /** When the last answer that counts came. */
  #answeredAt = 0;
  #oneEnded: () => void = () => undefined;

  constructor(
    private readonly options: OpenLoopOptions,
    private readonly pacer: Pacer,
    private readonly meter: ProcessMeter,
  ) {
    this.#maxInFlight = options.maxInFlight ?? 1024;
    this.#deadlineMs = options.deadlineMs ?? DEFAULT_DEADLINE_MS;
    if (options.requests.length === 0) throw new TerabagError('invalid_argument', 'load needs at least one request', { field: 'requests' });
  }

  async run(): Promise<LoadRun> {
    const { arrivals, warmUpMs, durationMs, signal, onProgress } = this.options;
    const { pacer, meter } = this;
    const startedAt = pacer.now();
    const measuredFrom = startedAt + warmUpMs;
    const endAt = measuredFrom + durationMs;
    let measuring = false;
    let waitedUs = 0;
    const startMeasuring = (): void => {
      measuring = true;
      waitedUs = pacer.waitingCpuUs();
      meter.start();
    };
    let position = 0;
    for (const offset of arrivalTimes(arrivals)) {
      const intendedAt = startedAt + offset;
      if (intendedAt >= endAt || signal?.aborted) break;
      if (!measuring && intendedAt >= measuredFrom) startMeasuring();
      const lateMs = await this.#wait(intendedAt);
      if (signal?.aborted) break;
      if (this.#inFlight >= this.#maxInFlight) await this.#slot();
      if (measuring) this.#count(lateMs);
      this.#send(position++, intendedAt, measuring);
      onProgress?.(pacer.now() - startedAt, warmUpMs + durationMs);
    }
    if (!signal?.aborted) await this.#wait(endAt);
    if (!measuring) startMeasuring();
    const sentUntil = Math.min(pacer.now(), endAt);
    const waitingCpuUs = pacer.waitingCpuUs() - waitedUs;
    while (this.#inFlight > 0) await this.#slot();
    // An overloaded predictor answers long after the last send: without that time, it would have answered at the rate that was offered.
    const measuredMs = Math.max(0, Math.max(sentUntil, this.#answeredAt) - measuredFrom);
    const { latency, fromSend, lag, errors } = this.#outcomes;
    const cost = await meter.stop();
    return { offeredQps: arrivals.qps, measuredMs, latency, fromSend, lag, errors, cost, waitingCpuUs, invalid: this.#invalid() };
  }

  /** In pieces, so that a run with few requests ends soon after its signal. Of a piece that ends late, what lies behind the time counts. */
  async #wait(at: number): Promise<number> {
    const { pacer, options } = this;
    let lateMs = 0;
    while (at - pacer.now() > LONGEST_WAIT_MS && !options.signal?.aborted) lateMs = await pacer.until(pacer.now() + LONGEST_WAIT_MS);
    const behindMs = Math.max(0, pacer.now() - at);
    return options.signal?.aborted ? 0 : Math.max(Math.min(lateMs, behindMs), await pacer.until(at));
  }

  #slot(): Promise<void> {
    return new Promise((resolve) => {
      this.#oneEnded = resolve;
    });
  }

  #count(lateMs: number): void {
    this.#sent++;
    if (lateMs > LATE_MS) this.#late++;
  }

  #send(position: number, intendedAt: number, measured: boolean): void {
    const { pacer } = this;
    const { predictor, requests } = this.options;
    const outcomes = measured ? this.#outcomes : null;
    const sentAt = pacer.now();
    const deadlineMs = intendedAt + this.#deadlineMs - sentAt;
    if (deadlineMs <= 0) {
      outcomes?.failed(
        new TerabagError('deadline_exceeded', `the deadline passed before the request could be sent: ${this.#deadlineMs} ms`),
      );
      return;
    }
    outcomes?.lag.record(sentAt - intendedAt);
    this.#inFlight++;
    void predictor
      .predict(requests[position % requests.length] as PredictRequest, { deadlineMs })
      .then(
        (answer) => {
          const now = pacer.now();
          outcomes?.latency.record(now - intendedAt);
          outcomes?.fromSend.record(now - sentAt);
          if (!measured) return;
          this.#answeredAt = now;
          this.options.onAnswer?.(answer, now - sentAt);
        },
        // What a signal ends besides this run, such as shards in its terminal, makes requests fail that count for nothing.
        (error: unknown) => !this.options.signal?.aborted && outcomes?.failed(error),
      )
      .finally(() => {
        this.#inFlight--;
        this.#oneEnded();
      });
  }

  #invalid(): string[] {
    if (this.#late <= Math.max(1, MOST_LATE * this.#sent)) return [];
    return [
      `the load generator was late by itself: ${this.#late} of ${this.#sent} sends by more than ${LATE_MS} ms, at most ${MOST_LATE * 100} % may be`,
    ];
  }
}
