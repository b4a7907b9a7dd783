import { type IntervalHistogram, monitorEventLoopDelay, PerformanceObserver } from 'node:perf_hooks';
import type { ShardedPredictor } from '../../predictor/sharded.js';

/** What this process, and the shards if they are asked, spent between two points in time. */
export interface ProcessCost {
  /** CPU of all threads of this process, us. */
  readonly mainCpuUs: number;
  /** Null when nobody tells. */
  readonly shardCpuUs: number | null;
  readonly collections: number;
  readonly collectionMs: number;
  /** How much later than due timers fired, ms, sampled every 10 ms. */
  readonly loopDelayMs: { readonly p50: number; readonly p99: number; readonly max: number };
}

/** CPU of all shards so far, us. */
export type ShardCpu = () => Promise<number>;

/** Of all replicas; rejects when one does not tell. */
export async function shardCpuUs(predictor: ShardedPredictor): Promise<number> {
  let sum = 0;
  for (const { stats, error } of await predictor.shardStats()) {
    if (stats === null) throw error;
    sum += stats.cpuUserUs + stats.cpuSystemUs;
  }
  return sum;
}

const SAMPLE_MS = 10;
const NS_PER_MS = 1e6;

/** Measures from start() to stop(); the observers run from its creation on, so that a start in the middle of load costs nothing. */
export class ProcessMeter {
  readonly #delays: IntervalHistogram = monitorEventLoopDelay({ resolution: SAMPLE_MS });
  readonly #observer = new PerformanceObserver((list) => this.#collected(list.getEntries()));
  #startedAt = Number.POSITIVE_INFINITY;
  #collections = 0;
  #collectionMs = 0;
  #cpu = process.cpuUsage();
  #shardCpu: Promise<number | null> = Promise.resolve(null);

  constructor(private readonly shardCpu: ShardCpu | undefined) {
    this.#observer.observe({ entryTypes: ['gc'] });
    this.#delays.enable();
  }

  start(): void {
    this.#startedAt = performance.now();
    this.#delays.reset();
    this.#cpu = process.cpuUsage();
    this.#shardCpu = this.#askShards();
  }

  async stop(): Promise<ProcessCost> {
    const { user, system } = process.cpuUsage(this.#cpu);
    const [before, after] = await Promise.all([this.#shardCpu, this.#askShards()]);
    // Entries come to the observer in a later turn of the loop.
    await new Promise((resolve) => setImmediate(resolve));
    this.#collected(this.#observer.takeRecords());
    const delay = (ns: number): number => Math.max(0, ns / NS_PER_MS - SAMPLE_MS);
    const [p50, p99] = [50, 99].map((percentile) => delay(this.#delays.percentile(percentile))) as [number, number];
    const loopDelayMs = { p50, p99, max: delay(this.#delays.max) };
    return {
      mainCpuUs: user + system,
      shardCpuUs: before === null || after === null ? null : after - before,
      collections: this.#collections,
      collectionMs: this.#collectionMs,
      loopDelayMs,
    };
  }

  close(): void {
    this.#observer.disconnect();
    this.#delays.disable();
  }

  #collected(entries: readonly { readonly startTime: number; readonly duration: number }[]): void {
    for (const { startTime, duration } of entries) {
      if (startTime < this.#startedAt) continue;
      this.#collections++;
      this.#collectionMs += duration;
    }
  }

  /** Null also when a shard is away: load goes on, its CPU is not known. */
  async #askShards(): Promise<number | null> {
    return (await this.shardCpu?.().catch(() => null)) ?? null;
  }
}
