import type { Buckets } from '../buckets.js';
import { PREDICTOR_COUNTERS, RPC_COUNTERS } from '../counters.js';
import { METERED_STAGES, type MeteredPredictor, type MeteredReplica, type MeteredShard, type PredictorMeter } from '../predictor-meter.js';
import { addHistogram, escapedLabel, Family, type FamilySpec, labelText, type Samples } from './family.js';

/** A model's version that is served, and what measures it. */
export interface WatchedModel {
  readonly model: string;
  readonly version: string;
  readonly meter: PredictorMeter;
}

const MODEL = ['model', 'version'] as const;

/** The metric of each number that a predictor counts by itself; null: another one tells it, by code. */
const OWN_METRICS = {
  requests: null,
  errors: null,
  overloaded: null,
  inFlight: 'terabag_predict_in_flight',
  inFlightBytes: 'terabag_predict_in_flight_bytes',
  concurrencyLimit: 'terabag_predict_concurrency_limit',
  lingering: 'terabag_predict_lingering',
  degraded: 'terabag_predict_degraded_total',
  nonFinite: 'terabag_predict_non_finite_total',
  unseen: 'terabag_unseen_ids_total',
  tableBytes: 'terabag_table_bytes',
  residentBytes: 'terabag_table_resident_bytes',
  hugePageBytes: 'terabag_table_huge_page_bytes',
  lockedBytes: 'terabag_table_locked_bytes',
} as const satisfies Record<Exclude<keyof typeof PREDICTOR_COUNTERS, keyof typeof RPC_COUNTERS>, string | null>;

/** Workers map the same files: what they have of them is not more than one has. */
const SHARED: ReadonlySet<string> = new Set(['tableBytes', 'residentBytes', 'hugePageBytes', 'lockedBytes']);

/** The metric of each number that a predictor counts of each shard. */
const RPC_METRICS = {
  sent: 'terabag_rpc_sent_total',
  resent: 'terabag_rpc_resent_total',
  retries: 'terabag_rpc_retries_total',
  hedges: 'terabag_rpc_hedges_total',
  hedgesWon: 'terabag_rpc_hedges_won_total',
  overBudget: 'terabag_rpc_over_budget_total',
  skew: 'terabag_rpc_version_skew_total',
  corrupt: 'terabag_rpc_corrupt_total',
  ejections: 'terabag_rpc_ejections_total',
  refused: 'terabag_rpc_queue_full_total',
  cancelled: 'terabag_rpc_cancelled_total',
  bytesSent: 'terabag_rpc_sent_bytes_total',
  bytesReceived: 'terabag_rpc_received_bytes_total',
  unmatched: 'terabag_rpc_unmatched_total',
  malformed: 'terabag_rpc_malformed_total',
  lost: 'terabag_rpc_lost_total',
  unresolved: 'terabag_rpc_unresolved_total',
} as const satisfies Record<keyof typeof RPC_COUNTERS, string>;

/** With the texts of their labels, which are made once. */
class Watched {
  readonly labels: string;
  /** In the order of the predictor's shards. */
  #shards: readonly (readonly [MeteredShard, labels: string])[] | null = null;

  constructor(readonly watched: WatchedModel) {
    const { model, version } = watched;
    this.labels = labelText({ model, version });
  }

  get meter(): PredictorMeter {
    return this.watched.meter;
  }

  get predictor(): MeteredPredictor | null {
    return this.meter.predictor;
  }

  get shards(): readonly (readonly [MeteredShard, labels: string])[] {
    if (this.#shards !== null) return this.#shards;
    if (this.predictor === null) return [];
    this.#shards = this.predictor.shards.map((shard) => [shard, `${this.labels},shard="${escapedLabel(shard.name)}"`]);
    return this.#shards;
  }
}

/** What predictors count, read when it is asked for. */
export class PredictorFamilies {
  /** By name and version. */
  readonly #watched = new Map<string, Watched>();
  readonly all: readonly Family[];

  constructor() {
    this.all = [...this.#ofMeters(), ...this.#ofPredictors(), ...this.#ofShards(), ...this.#ofReplicas()];
  }

  /** Until the call of what it returns, or until another predictor serves the same version. */
  watch(watched: WatchedModel): () => void {
    const key = JSON.stringify([watched.model, watched.version]);
    const entry = new Watched(watched);
    this.#watched.set(key, entry);
    return () => {
      if (this.#watched.get(key) === entry) this.#watched.delete(key);
    };
  }

  /** A family with the samples of each model, which are added in steps. */
  #family({ labels = [], ...spec }: PartOfSpec, add: (samples: Samples, watched: Watched) => Iterable<void>): Family {
    const all = this.#watched;
    return new Family({ ...spec, labels: [...MODEL, ...labels] }, function* (samples) {
      // A copy: a model may come or go while a scrape has its turns.
      for (const watched of [...all.values()]) yield* add(samples, watched);
    });
  }

  /** Likewise, of few samples a model. */
  #small(spec: PartOfSpec, add: (samples: Samples, watched: Watched) => void): Family {
    return this.#family(spec, function* (samples, watched) {
      add(samples, watched);
      yield;
    });
  }

  /** With samples of each shard. */
  #perShard({ labels = [], ...spec }: PartOfSpec, add: (samples: Samples, labels: string, shard: MeteredShard) => void): Family {
    return this.#family({ ...spec, labels: ['shard', ...labels] }, function* (samples, { shards }) {
      for (const [shard, text] of shards) {
        add(samples, text, shard);
        yield;
      }
    });
  }

  #ofMeters(): Family[] {
    const histogram = (name: string, help: string, of: (meter: PredictorMeter) => Buckets): Family =>
      this.#small({ name, help, type: 'histogram' }, (samples, { meter, labels }) => addHistogram(samples, name, labels, of(meter)));
    const [total, stage, lookups] = ['terabag_predict_total', 'terabag_stage_duration_seconds', 'terabag_lookups_total'];
    return [
      this.#small(
        {
          name: total,
          help: 'Calls of predict that have ended, by the code of their error, or ok. With batching, a call is a batch.',
          type: 'counter',
          labels: ['code'],
        },
        (samples, { meter, labels }) => {
          for (const [code, count] of meter.codes) samples.add(total, `${labels},code="${code}"`, count);
        },
      ),
      histogram('terabag_predict_duration_seconds', 'From the call of predict to its answer, of those that have one.', (m) => m.durations),
      this.#family(
        {
          name: stage,
          help: 'What stages of answered calls take: shards is from the first message to the last answer, while own_tables and dense may run.',
          type: 'histogram',
          labels: ['stage'],
        },
        function* (samples, { meter, labels }) {
          for (const [s, name] of METERED_STAGES.entries()) {
            addHistogram(samples, stage, `${labels},stage="${name}"`, meter.stages[s] as Buckets);
            yield;
          }
        },
      ),
      histogram('terabag_predict_items', 'Items of answered calls of predict; with batching, of a whole batch.', (meter) => meter.items),
      this.#small(
        { name: lookups, help: 'Ids of answered calls of predict, as they were given.', type: 'counter' },
        (samples, { meter, labels }) => samples.add(lookups, labels, meter.lookups),
      ),
    ];
  }

  #ofPredictors(): Family[] {
    const [info, ready] = ['terabag_model_info', 'terabag_model_ready'];
    const own = Object.entries(OWN_METRICS).flatMap(([field, name]) =>
      name === null ? [] : [this.#ofOwnStats(field as keyof typeof OWN_METRICS, name)],
    );
    return [
      this.#small(
        {
          name: info,
          help: '1, with what is served as labels.',
          type: 'gauge',
          labels: ['model_hash', 'plan_hash', 'epoch'],
          aggregator: 'max',
        },
        (samples, { predictor, labels }) => {
          if (predictor === null) return;
          const { modelHash, planHash, epoch } = predictor.version;
          samples.add(info, `${labels},${labelText({ model_hash: modelHash, plan_hash: planHash, epoch })}`, 1);
        },
      ),
      this.#small(
        { name: ready, help: '1 while each shard has a replica that takes requests.', type: 'gauge', aggregator: 'min' },
        (samples, { predictor, labels }) => samples.add(ready, labels, Number(predictor?.shards.every((shard) => shard.ready) ?? false)),
      ),
      ...own,
    ];
  }

  #ofOwnStats(field: keyof typeof OWN_METRICS, name: string): Family {
    const { kind, description: help } = PREDICTOR_COUNTERS[field];
    const type = kind === 'gauge' ? 'gauge' : 'counter';
    const aggregator = SHARED.has(field) ? 'max' : 'sum';
    return this.#family(
      { name, help, type, aggregator, labels: kind === 'counters' ? ['table'] : [] },
      function* (samples, { predictor, labels }) {
        const value = predictor?.ownStats()[field];
        if (typeof value === 'number') samples.add(name, labels, value);
        else if (value !== undefined)
          for (const [table, count] of Object.entries(value)) {
            samples.add(name, `${labels},table="${escapedLabel(table)}"`, count);
            yield;
          }
        yield;
      },
    );
  }

  #ofShards(): Family[] {
    const counters = Object.entries(RPC_METRICS).map(([key, name]) => {
      const field = key as keyof typeof RPC_METRICS;
      const { description: help } = RPC_COUNTERS[field];
      return this.#perShard({ name, help, type: 'counter' }, (samples, labels, { counts }) => samples.add(name, labels, counts[field]));
    });
    const gauge = (name: string, help: string, of: (replicas: readonly MeteredReplica[]) => number): Family =>
      this.#perShard({ name, help, type: 'gauge', aggregator: 'min' }, (samples, labels, shard) =>
        samples.add(name, labels, of(shard.replicas())),
      );
    return [
      ...counters,
      gauge('terabag_rpc_replicas', 'Replicas of the shard that its endpoints name.', (replicas) => replicas.length),
      gauge(
        'terabag_rpc_replicas_ready',
        'Replicas of the shard that take requests; without one, requests wait.',
        (replicas) => replicas.filter(({ ready }) => ready).length,
      ),
    ];
  }

  #ofReplicas(): Family[] {
    const gauge = (spec: Pick<FamilySpec, 'name' | 'help' | 'aggregator'>, of: (replica: MeteredReplica) => number): Family =>
      this.#perShard({ ...spec, type: 'gauge', labels: ['replica'] }, (samples, labels, shard) => {
        for (const replica of shard.replicas())
          samples.add(spec.name, `${labels},replica="${escapedLabel(replica.endpoint)}"`, of(replica));
      });
    return [
      gauge({ name: 'terabag_replica_ready', help: '1 while the replica takes requests.', aggregator: 'min' }, ({ ready }) =>
        Number(ready),
      ),
      gauge(
        {
          name: 'terabag_replica_ejected',
          help: '1 while the replica is given no requests but probes, since its answers failed.',
          aggregator: 'max',
        },
        ({ ejected }) => Number(ejected),
      ),
      gauge({ name: 'terabag_replica_in_flight', help: 'Requests to pool that the replica has not answered.' }, ({ inFlight }) => inFlight),
    ];
  }
}

type PartOfSpec = Omit<FamilySpec, 'labels'> & { readonly labels?: readonly string[] };
