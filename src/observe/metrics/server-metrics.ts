import { Registry } from 'prom-client';
import type { BatchMeter } from '../batch-meter.js';
import { Buckets, DURATION_BOUNDS } from '../buckets.js';
import { OK } from '../predictor-meter.js';
import { addHistogram, escapedLabel, Family, type FamilySpec, labelText, type Samples } from './family.js';
import { PredictorFamilies, type WatchedModel } from './predictor-families.js';
import { addProcessMetrics } from './process-metrics.js';
import { CONTENT_TYPE, register, rendered, type Section, Slices, sectionsOf } from './render.js';

/** A request that a server has answered. */
export interface EndedRequest {
  /** Of models that are served; others are counted under empty names. */
  readonly model: string;
  readonly version: string;
  readonly protocol: 'http' | 'grpc';
  /** ok, or why it failed: the code of a TerabagError, or another of few words. */
  readonly code: string;
  /** From its first byte to its answer. */
  readonly ms: number;
  readonly items: number;
}

/** What is counted of requests of one model and protocol. */
class Requests {
  readonly codes = new Map<string, number>([[OK, 0]]);
  readonly durations = new Buckets(DURATION_BOUNDS);
  items = 0;

  constructor(readonly labels: string) {}

  count({ code, ms, items }: EndedRequest): void {
    this.codes.set(code, (this.codes.get(code) ?? 0) + 1);
    if (code !== OK) return;
    this.durations.record(ms / 1000);
    this.items += items;
  }
}

/** Of a model's version by protocol; those of names that are not served are counted together. */
class Served {
  readonly http: Requests;
  readonly grpc: Requests;
  readonly labels: string;

  constructor(
    model: string,
    version: string,
    readonly batching: BatchMeter | null,
  ) {
    this.http = new Requests(labelText({ model, version, protocol: 'http' }));
    this.grpc = new Requests(labelText({ model, version, protocol: 'grpc' }));
    this.labels = labelText({ model, version });
  }
}

const MODEL = ['model', 'version'] as const;

/**
 * The metrics of a process that serves models: of requests, of their predictors and shards, of batching, and of the process. Values are read where they
 * are counted.
 */
export class ServerMetrics {
  readonly registry = new Registry();
  readonly #predictors = new PredictorFamilies();
  readonly #served = new Map<string, Map<string, Served>>();
  /** Strangers must not make series. */
  readonly #unknown = new Served('', '', null);

  constructor() {
    register(this.registry, [...this.#ofRequests(), ...this.#predictors.all, ...this.#ofBatching()]);
    addProcessMetrics(this.registry);
  }

  /** A predictor that was opened with this meter serves the model's version, until the call of what it returns. */
  watchPredictor(watched: WatchedModel & { readonly batching?: BatchMeter }): () => void {
    const { model, version, batching = null } = watched;
    const versions = this.#served.get(model) ?? new Map<string, Served>();
    const served = new Served(model, version, batching);
    versions.set(version, served);
    this.#served.set(model, versions);
    const unwatch = this.#predictors.watch(watched);
    return () => {
      unwatch();
      if (versions.get(version) === served) versions.delete(version);
      if (versions.size === 0) this.#served.delete(model);
    };
  }

  requestEnded(request: EndedRequest): void {
    const served = this.#served.get(request.model)?.get(request.version) ?? this.#unknown;
    served[request.protocol].count(request);
  }

  sections(slices: Slices): AsyncIterable<Section> {
    return sectionsOf(this.registry, slices);
  }

  /** The text format in pieces, each of use until the next is asked for: sendMetrics sends them. */
  pieces(): AsyncIterable<Uint8Array> {
    const slices = new Slices();
    return rendered(this.sections(slices), slices);
  }

  /** The whole text, which takes as many turns of the event loop, but holds it in the end as long as its reader takes it for. */
  async renderMetrics(): Promise<{ readonly contentType: string; readonly body: string }> {
    const decoder = new TextDecoder();
    let body = '';
    for await (const piece of this.pieces()) body += decoder.decode(piece, { stream: true });
    return { contentType: CONTENT_TYPE, body };
  }

  *#all(): Generator<Served> {
    for (const versions of [...this.#served.values()]) yield* [...versions.values()];
    yield this.#unknown;
  }

  #requestFamily(
    spec: Omit<FamilySpec, 'labels'> & { readonly labels?: readonly string[] },
    add: (samples: Samples, of: Requests) => void,
  ) {
    const all = (): Generator<Served> => this.#all();
    return new Family({ ...spec, labels: [...MODEL, 'protocol', ...(spec.labels ?? [])] }, function* (samples) {
      for (const { http, grpc } of all()) {
        add(samples, http);
        add(samples, grpc);
        yield;
      }
    });
  }

  #ofRequests(): Family[] {
    const [total, duration, items] = ['terabag_requests_total', 'terabag_request_duration_seconds', 'terabag_request_items_total'];
    return [
      this.#requestFamily(
        {
          name: total,
          type: 'counter',
          help: 'Requests that were answered, by the code of their error, or ok. Those of models that are not served have empty names.',
          labels: ['code'],
        },
        (samples, { codes, labels }) => {
          for (const [code, count] of codes) samples.add(total, `${labels},code="${escapedLabel(code)}"`, count);
        },
      ),
      this.#requestFamily(
        { name: duration, type: 'histogram', help: 'From the first byte of a request to its answer, of those that are ok.' },
        (samples, { durations, labels }) => addHistogram(samples, duration, labels, durations),
      ),
      this.#requestFamily({ name: items, type: 'counter', help: 'Items of requests that are ok.' }, (samples, { labels, items: count }) =>
        samples.add(items, labels, count),
      ),
    ];
  }

  #ofBatching(): Family[] {
    const all = (): Generator<Served> => this.#all();
    const family = (spec: Omit<FamilySpec, 'labels'>, add: (samples: Samples, meter: BatchMeter, labels: string) => void): Family =>
      new Family({ ...spec, labels: MODEL }, function* (samples) {
        for (const { batching, labels } of all()) {
          if (batching !== null) add(samples, batching, labels);
          yield;
        }
      });
    const [requests, wait, waiting] = ['terabag_batch_requests', 'terabag_batch_wait_seconds', 'terabag_batch_waiting'];
    return [
      family({ name: requests, type: 'histogram', help: 'Requests that ran as one batch.' }, (samples, meter, labels) =>
        addHistogram(samples, requests, labels, meter.requests),
      ),
      family({ name: wait, type: 'histogram', help: 'How long a request waited for others of its batch.' }, (samples, meter, labels) =>
        addHistogram(samples, wait, labels, meter.waits),
      ),
      family({ name: waiting, type: 'gauge', help: 'Requests that wait for others of their batch.' }, (samples, meter, labels) =>
        samples.add(waiting, labels, meter.waiting),
      ),
    ];
  }
}
