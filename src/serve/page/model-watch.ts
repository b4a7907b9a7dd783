import { performance } from 'node:perf_hooks';
import type { PredictorStats } from '../../observe/counters.js';
import { MAIN_SHARD } from '../../plan/file/plan.js';
import type { Watched } from '../../predictor/watched.js';
import type { ReplicaStats } from '../../rpc/shard-stats.js';
import type { ServedModel } from '../served-model.js';
import { HealthWatch } from './health.js';
import { LookupCounter } from './lookup-counter.js';
import { RequestSampler, type TracedSums } from './request-sampler.js';
import type { ModelSnapshot, ShardSnapshot } from './snapshot.js';
import { RateWindow, TimedWindow } from './window.js';

/** What a process tells of a model version: a snapshot, but for what can only be worked out over all processes. */
export interface ModelSample extends Omit<ModelSnapshot, 'latency' | 'traced'> {
  /** Ms of requests of the latest seconds that were answered. */
  readonly latenciesMs: readonly number[];
  readonly traced: TracedSums | null;
}

const RATES_MS = 5_000;
const LATENCIES_MS = 10_000;
const MOST_LATENCIES = 2_048;

/** Watches one version of a model, from its making on: what is counted and traced only for those who watch begins then. */
export class ModelWatch {
  readonly #rates = new RateWindow(RATES_MS);
  readonly #latencies = new TimedWindow<number>(LATENCIES_MS, MOST_LATENCIES);
  #opened: OpenedWatch | null = null;

  constructor(private readonly model: ServedModel) {
    model.lookups = new LookupCounter();
  }

  answered(ms: number): void {
    this.#latencies.push(performance.now(), ms);
  }

  close(): void {
    this.model.lookups = null;
    this.#opened?.close();
    this.#opened = null;
  }

  sample(now: number): ModelSample {
    const { model } = this;
    const { opened } = model;
    const watched = opened?.predictor.watched ?? null;
    if ((this.#opened?.watched ?? null) !== watched) {
      this.#opened?.close();
      this.#opened = watched === null ? null : new OpenedWatch(watched);
    }
    const { inference_count: items, inference_stats } = model.counter.statistics(model.name, model.version);
    const stats = opened?.predictor.stats() ?? null;
    const counters = new Map<string, number>([
      ['items', items],
      ['requests', inference_stats.success.count + inference_stats.fail.count],
      ['errors', inference_stats.fail.count],
      ...[...(model.lookups?.ofBags ?? [])].map(([bag, count]) => [`lookups ${bag}`, count] as const),
    ]);
    const unseen = this.#opened?.unseen(stats) ?? new Map<string, number>();
    for (const [table, count] of unseen) counters.set(`unseen ${table}`, count);
    this.#rates.push(now, counters);
    const rate = (name: string): number => this.#rates.rate(name);
    const tables = watched?.placement.tables.map(({ name, rows, dim, format, bags }) => ({
      ...{ name, rows, dim, format, unseenTotal: unseen.get(name) ?? 0 },
      lookups: bags.reduce((sum, bag) => sum + rate(`lookups ${bag}`), 0),
      unseen: rate(`unseen ${name}`),
    }));
    return {
      ...{ name: model.name, version: model.version, state: model.state, reasons: model.readiness().reasons },
      ...{ hash: opened?.predictor.modelHash ?? '', planHash: watched?.version.planHash ?? '', epoch: watched?.version.epoch ?? 0 },
      openMs: opened === null ? 0 : now - opened.openedAt,
      rates: { requests: rate('requests'), errors: rate('errors'), items: rate('items') },
      latenciesMs: this.#latencies.values(now),
      ...{ inFlight: stats?.inFlight ?? 0, concurrencyLimit: stats?.concurrencyLimit ?? 0, counts: stats === null ? {} : countsOf(stats) },
      ...{ tables: tables ?? null, shards: this.#opened?.shards() ?? [] },
      ...(this.#opened?.sampler.look(now) ?? { traced: null, slowest: [] }),
    };
  }
}

/** Those of gauges are told by fields of their own, or are none of requests. */
const LEFT_OUT: ReadonlySet<string> = new Set([
  ...['inFlight', 'inFlightBytes', 'concurrencyLimit', 'tableBytes', 'residentBytes', 'hugePageBytes', 'lockedBytes'],
]);

const countsOf = (stats: PredictorStats): Record<string, number> =>
  Object.fromEntries(
    Object.entries(stats).filter(
      (entry): entry is [string, number] => typeof entry[1] === 'number' && entry[1] > 0 && !LEFT_OUT.has(entry[0]),
    ),
  );

/** Watches a predictor that tells of itself. */
class OpenedWatch {
  readonly sampler: RequestSampler;
  readonly #health = new HealthWatch();
  readonly #rates = new RateWindow(RATES_MS);
  /** What replicas said last, by shard and endpoint. */
  #told = new Map<string, ReplicaStats>();
  #isAsking = false;

  constructor(readonly watched: Watched) {
    this.sampler = new RequestSampler(watched);
  }

  close(): void {
    this.sampler.close();
  }

  /** Ids by table, counted by main and by all replicas. */
  unseen(stats: PredictorStats | null): Map<string, number> {
    const counts = new Map<string, number>(Object.entries(stats?.unseen ?? {}));
    for (const told of this.#told.values())
      for (const [table, count] of Object.entries(told.stats?.unseen ?? {})) counts.set(table, (counts.get(table) ?? 0) + count);
    return counts;
  }

  shards(): ShardSnapshot[] {
    this.#ask();
    const states = this.watched.replicas();
    const judged = this.#health.judge(states);
    return this.watched.placement.shards.map(({ name, held }) => ({
      ...{ name, held, main: name === MAIN_SHARD },
      replicas: states.flatMap((state, s) => {
        const { health = 'up', why = '' } = judged[s] ?? {};
        if (state.shard !== name) return [];
        const { endpoint, latencyMs, roundTripMs, inFlight } = state;
        const stats = health === 'down' ? null : this.#statsOf(keyOf(name, endpoint));
        return [{ ...{ endpoint, health, why, latencyMs, roundTripMs, inFlight }, stats }];
      }),
    }));
  }

  #statsOf(key: string): ShardSnapshot['replicas'][number]['stats'] {
    const stats = this.#told.get(key)?.stats ?? null;
    if (stats === null) return null;
    const { uptimeMs, rssBytes, tableBytes, residentBytes } = stats;
    const requests = this.#rates.rate(`requests ${key}`);
    return { ...{ requests, errors: this.#rates.rate(`errors ${key}`), uptimeMs }, rssBytes, tableBytes, residentBytes };
  }

  /** One that does not answer is waited for: the others are shown as they were. */
  #ask(): void {
    if (this.#isAsking) return;
    this.#isAsking = true;
    const taken = (all: readonly ReplicaStats[]): void => {
      const answered = all.flatMap((told) => (told.endpoint === null ? [] : [[keyOf(told.shard, told.endpoint), told] as const]));
      // What one counted before it was lost is kept, so that sums by table do not fall.
      this.#told = new Map([...this.#told, ...answered.filter(([key, { stats }]) => stats !== null || !this.#told.has(key))]);
      const counters = [...this.#told].flatMap(([key, { stats }]): [string, number][] =>
        stats === null
          ? []
          : [
              [`requests ${key}`, stats.requests],
              [`errors ${key}`, stats.errors],
            ],
      );
      this.#rates.push(performance.now(), new Map(counters));
    };
    this.watched
      .shardStats()
      // The predictor is closed.
      .then(taken, () => undefined)
      .finally(() => {
        this.#isAsking = false;
      });
  }
}

const keyOf = (shard: string, endpoint: string): string => `${shard} ${endpoint}`;
