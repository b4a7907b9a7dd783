import { performance } from 'node:perf_hooks';
import { SERVER_METADATA } from '../metadata.js';
import type { ServedModel } from '../served-model.js';
import type { EndedRequest, Serving } from '../serving.js';
import { type ModelSample, ModelWatch } from './model-watch.js';
import { addSums, type TracedSums } from './request-sampler.js';
import type { ModelSnapshot, Snapshot, TracedSnapshot } from './snapshot.js';
import { TimedWindow } from './window.js';

/** What one process of the server tells; plain data. */
export interface ProcessSample {
  readonly ready: boolean;
  readonly draining: boolean;
  readonly uptimeMs: number;
  readonly errors: Readonly<Record<string, number>>;
  readonly models: readonly ModelSample[];
}

/** Without a question for so long nobody watches. */
const UNWATCHED_MS = 5_000;
/** Questions that come sooner get the same answer. */
const SAME_MS = 500;
const ERRORS_MS = 60_000;
const MOST_ERRORS = 10_000;
const MOST_SLOWEST = 8;

/** Watches what this process serves while somebody asks: nothing is counted, traced or asked of shards otherwise. */
export class Watch {
  #models = new Map<ServedModel, ModelWatch>();
  readonly #errors = new TimedWindow<string>(ERRORS_MS, MOST_ERRORS);
  #sampled: { readonly at: number; readonly sample: ProcessSample } | null = null;
  #unwatched: NodeJS.Timeout | null = null;

  constructor(private readonly serving: Serving) {}

  get watching(): boolean {
    return this.#unwatched !== null;
  }

  /** A request has ended. */
  ended({ code, model, version, ms }: EndedRequest): void {
    if (!this.watching) return;
    if (code !== 'ok') {
      this.#errors.push(performance.now(), code);
      return;
    }
    for (const [{ name, version: served }, watch] of this.#models) if (name === model && served === version) watch.answered(ms);
  }

  sample(): ProcessSample {
    const now = performance.now();
    if (this.#unwatched === null) this.#unwatched = setTimeout(() => this.close(), UNWATCHED_MS).unref();
    else this.#unwatched.refresh();
    if (this.#sampled !== null && now - this.#sampled.at < SAME_MS) return this.#sampled.sample;
    const { repository, ready, draining } = this.serving;
    const errors: Record<string, number> = {};
    for (const code of this.#errors.values(now)) errors[code] = (errors[code] ?? 0) + 1;
    const models = repository.models.map((model) => {
      const watch = this.#models.get(model) ?? new ModelWatch(model);
      return [model, watch] as const;
    });
    for (const [model, watch] of this.#models) if (!repository.models.includes(model)) watch.close();
    this.#models = new Map(models);
    const sample = { ready, draining, uptimeMs: process.uptime() * 1000, errors, models: models.map(([, watch]) => watch.sample(now)) };
    this.#sampled = { at: now, sample };
    return sample;
  }

  /** Stops watching, until somebody asks again. */
  close(): void {
    if (this.#unwatched !== null) clearTimeout(this.#unwatched);
    this.#unwatched = null;
    for (const watch of this.#models.values()) watch.close();
    this.#models = new Map();
    this.#sampled = null;
  }
}

/** What all processes of a server tell together. What each sees of the shards is alike, and shown as the first does. */
export function snapshotOf(samples: readonly ProcessSample[]): Snapshot {
  const errors: Record<string, number> = {};
  for (const sample of samples) for (const [code, count] of Object.entries(sample.errors)) errors[code] = (errors[code] ?? 0) + count;
  const models = new Map<string, ModelSample[]>();
  for (const model of samples.flatMap((sample) => sample.models)) {
    const key = JSON.stringify([model.name, model.version]);
    models.set(key, [...(models.get(key) ?? []), model]);
  }
  return {
    at: Date.now(),
    server: {
      version: SERVER_METADATA.version,
      ready: samples.every(({ ready }) => ready),
      draining: samples.some(({ draining }) => draining),
      processes: samples.length,
      uptimeMs: Math.max(0, ...samples.map(({ uptimeMs }) => uptimeMs)),
    },
    errors,
    models: [...models.values()].map(modelOf),
  };
}

function modelOf(samples: readonly ModelSample[]): ModelSnapshot {
  const [first] = samples as [ModelSample, ...ModelSample[]];
  const sum = (of: (sample: ModelSample) => number): number => samples.reduce((total, sample) => total + of(sample), 0);
  const latencies = samples.flatMap(({ latenciesMs }) => latenciesMs).sort((a, b) => a - b);
  const traced = samples.flatMap((sample) => sample.traced ?? []);
  const counts: Record<string, number> = {};
  for (const sample of samples) for (const [name, count] of Object.entries(sample.counts)) counts[name] = (counts[name] ?? 0) + count;
  const { latenciesMs: _, ...shared } = first;
  return {
    ...shared,
    reasons: [...new Set(samples.flatMap(({ reasons }) => reasons))],
    rates: {
      requests: sum(({ rates }) => rates.requests),
      errors: sum(({ rates }) => rates.errors),
      items: sum(({ rates }) => rates.items),
    },
    latency:
      latencies.length === 0
        ? null
        : { requests: latencies.length, p50: quantile(latencies, 0.5), p95: quantile(latencies, 0.95), p99: quantile(latencies, 0.99) },
    ...{ inFlight: sum(({ inFlight }) => inFlight), concurrencyLimit: sum(({ concurrencyLimit }) => concurrencyLimit), counts },
    tables: first.tables?.map((table, at) => ({ ...table, lookups: sum(({ tables }) => tables?.[at]?.lookups ?? 0) })) ?? null,
    traced: traced.length === 0 ? null : meansOf(traced.reduce(addSums)),
    slowest: samples
      .flatMap(({ slowest }) => slowest)
      .sort((a, b) => b.ms - a.ms)
      .slice(0, MOST_SLOWEST),
  };
}

/** Nearest rank. */
const quantile = (ascending: readonly number[], q: number): number => ascending[Math.ceil(q * ascending.length) - 1] ?? 0;

function meansOf({ requests, latency, embedded, bounding }: TracedSums): TracedSnapshot {
  const mean = ({ totalUs, layers }: TracedSums['latency']) => ({
    totalUs: totalUs / requests,
    layers: Object.fromEntries(Object.entries(layers).map(([layer, us]) => [layer, us / requests])),
  });
  const all = Object.values(bounding).reduce((sum, times) => sum + times, 0);
  return {
    ...{ requests, latency: mean(latency), embedded: mean(embedded) },
    bounding: Object.fromEntries(Object.entries(bounding).map(([shard, times]) => [shard, times / all])),
  };
}
