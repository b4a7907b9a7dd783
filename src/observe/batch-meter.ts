import { Buckets, COUNT_BOUNDS, DURATION_BOUNDS } from './buckets.js';

/** Counts what becomes of requests that are merged into batches, for /metrics. */
export class BatchMeter {
  /** Requests of a batch. @internal */
  readonly requests = new Buckets(COUNT_BOUNDS);
  /** Seconds that a request waited for others. @internal */
  readonly waits = new Buckets(DURATION_BOUNDS);
  /** Requests that wait now. */
  waiting = 0;

  /** A request waits for others. */
  enqueued(): void {
    this.waiting++;
  }

  /** It waits no more, since it runs or has failed. */
  dequeued(seconds: number): void {
    this.waiting--;
    this.waits.record(seconds);
  }

  /** So many requests run as one. */
  ran(requests: number): void {
    this.requests.record(requests);
  }
}
