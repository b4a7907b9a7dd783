import { performance } from 'node:perf_hooks';
import { addLayers, EMBEDDED_LAYERS, embeddedStack, LATENCY_LAYERS, latencyStack, type Stack } from '../../observe/stacks.js';
import type { TracedRequest } from '../../observe/traced-request.js';
import { type EndedRecord, Tracer } from '../../observe/tracer.js';
import type { Watched } from '../../predictor/watched.js';
import type { SlowRequest } from './snapshot.js';
import { waterfall } from './waterfall.js';
import { TimedWindow } from './window.js';

/** Stacks are means over these. */
const STACKS_MS = 10_000;
/** The slowest requests of this time are shown. */
const SLOWEST_MS = 60_000;
const MOST_SLOWEST = 8;
/** Requests of which the tracer keeps what they took, between two looks. */
const CAPACITY = 256;
/** Spans of main, beside one for each shard. */
const OWN_SPANS = 24;
/** Read at a look, since each takes some hundred microseconds of the event loop: the slowest, and others evenly. */
const READ_SLOWEST = 3;
const READ_OTHERS = 8;

/** Sums, so that those of several processes can be added. */
export interface TracedSums {
  readonly requests: number;
  readonly latency: Stack<string>;
  readonly embedded: Stack<string>;
  /** By shard, how often it answered last. */
  readonly bounding: Readonly<Record<string, number>>;
}

/** Traces a predictor while it is watched, and says where time goes. A tracer that its owner gave it is read as it is. */
export class RequestSampler {
  readonly #own: Tracer | null;
  #lookedAt = performance.now();
  readonly #sums = new TimedWindow<TracedSums>(STACKS_MS, 1000);
  readonly #slowest = new TimedWindow<SlowRequest>(SLOWEST_MS, 1000);
  /** Copied, and not taken apart yet. */
  readonly #copied: { readonly request: TracedRequest; readonly isSlow: boolean; readonly isSample: boolean }[] = [];
  #working = false;

  constructor(private readonly watched: Watched) {
    this.#own = watched.trace === null ? new Tracer({ capacity: CAPACITY, spans: OWN_SPANS + 2 * watched.placement.shards.length }) : null;
    if (this.#own !== null) watched.trace = this.#own;
  }

  close(): void {
    if (this.#own === null) return;
    this.#own.enabled = false;
    if (this.watched.trace === this.#own) this.watched.trace = null;
  }

  look(now: number): { readonly traced: TracedSums | null; readonly slowest: readonly SlowRequest[] } {
    const tracer = this.watched.trace;
    if (tracer !== null) this.#read(tracer, now);
    const sums = this.#sums.values(now);
    const slowest = this.#slowest.values(now).sort((a, b) => b.ms - a.ms);
    return { traced: sums.length === 0 ? null : sums.reduce(addSums), slowest: slowest.slice(0, MOST_SLOWEST) };
  }

  #read(tracer: Tracer, now: number): void {
    const fresh = tracer.ended().filter(({ endedAt }) => endedAt > this.#lookedAt);
    this.#lookedAt = now;
    const descending = [...fresh].sort((a, b) => durationOf(b) - durationOf(a));
    const least = this.#slowest.values(now).sort((a, b) => b.ms - a.ms)[MOST_SLOWEST - 1]?.ms ?? 0;
    const slow = new Set(
      descending
        .slice(0, READ_SLOWEST)
        .filter((record) => durationOf(record) > least)
        .map(({ number }) => number),
    );
    const step = Math.max(1, Math.ceil(fresh.length / READ_OTHERS));
    const others = new Set(fresh.filter((_, n) => n % step === 0).map(({ number }) => number));
    for (const request of tracer.requests(new Set([...slow, ...others])))
      this.#copied.push({ request, isSlow: slow.has(request.number), isSample: others.has(request.number) });
    if (!this.#working) this.#work();
  }

  /** One at a turn of the event loop, so that requests do not wait for all of them. */
  #work(): void {
    const next = this.#copied.shift();
    this.#working = next !== undefined;
    if (next === undefined) return;
    const { request, isSlow, isSample } = next;
    const now = performance.now();
    if (isSlow)
      this.#slowest.push(now, {
        id: `${process.pid}-${request.number}-${Math.round(request.startUs)}`,
        at: Math.round(performance.timeOrigin + request.endUs / 1000),
        ms: (request.endUs - request.startUs) / 1000,
        items: request.items,
        error: request.error,
        lanes: waterfall(request),
      });
    if (isSample && request.complete && request.error === null) {
      const { bounding, ...embedded } = embeddedStack(request);
      const counted: Record<string, number> = {};
      for (const shard of bounding) counted[shard] = (counted[shard] ?? 0) + 1;
      this.#sums.push(now, { requests: 1, latency: latencyStack(request), embedded, bounding: counted });
    }
    setImmediate(() => this.#work());
  }
}

const durationOf = ({ startedAt, endedAt }: EndedRecord): number => endedAt - startedAt;

export function addSums(a: TracedSums, b: TracedSums): TracedSums {
  const bounding: Record<string, number> = { ...a.bounding };
  for (const [shard, times] of Object.entries(b.bounding)) bounding[shard] = (bounding[shard] ?? 0) + times;
  return {
    requests: a.requests + b.requests,
    latency: addStacks(LATENCY_LAYERS, a.latency, b.latency),
    embedded: addStacks(EMBEDDED_LAYERS, a.embedded, b.embedded),
    bounding,
  };
}

const addStacks = (names: readonly string[], a: Stack<string>, b: Stack<string>): Stack<string> => ({
  totalUs: a.totalUs + b.totalUs,
  layers: addLayers(names, [a.layers, b.layers]),
});
