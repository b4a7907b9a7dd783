import { Registry } from 'prom-client';
import { SHARD_STATS, type ShardStats } from '../../rpc/shard-stats.js';
import { escapedLabel, Family, type FamilySpec, labelText, type Samples } from './family.js';
import { addProcessMetrics } from './process-metrics.js';
import { register, rendered, Slices, sectionsOf } from './render.js';

/** The metric of each number that a shard says of itself; null: a label of terabag_shard_info, or the metric of any process. */
const SHARD_METRICS = {
  shard: null,
  model: null,
  plan: null,
  epoch: null,
  kernels: null,
  state: null,
  uptimeMs: 'terabag_shard_uptime_seconds',
  requests: 'terabag_shard_requests_total',
  errors: 'terabag_shard_errors_total',
  malformed: 'terabag_shard_malformed_total',
  skew: 'terabag_shard_version_skew_total',
  overloaded: 'terabag_shard_overloaded_total',
  expired: 'terabag_shard_expired_total',
  cancelled: 'terabag_shard_cancelled_total',
  abandoned: 'terabag_shard_abandoned_total',
  undeliverable: 'terabag_shard_undeliverable_total',
  connections: 'terabag_shard_connections',
  strangers: 'terabag_shard_strangers_total',
  cut: 'terabag_shard_cut_connections_total',
  inFlight: 'terabag_shard_in_flight',
  inFlightBytes: 'terabag_shard_in_flight_bytes',
  unseen: 'terabag_shard_unseen_ids_total',
  cpuUserUs: null,
  cpuSystemUs: null,
  rssBytes: null,
  replacedFiles: 'terabag_shard_replaced_files',
  tableBytes: 'terabag_shard_table_bytes',
  residentBytes: 'terabag_shard_table_resident_bytes',
  hugePageBytes: 'terabag_shard_table_huge_page_bytes',
  lockedBytes: 'terabag_shard_table_locked_bytes',
} as const satisfies Record<keyof typeof SHARD_STATS, string | null>;

/** Metrics are in seconds. */
const PER_SECOND: Readonly<Partial<Record<keyof typeof SHARD_STATS, number>>> = { uptimeMs: 1000 };

/** The metrics of a process that is a shard: what it says of itself, and those of any process. */
export class ShardMetrics {
  readonly registry = new Registry();
  readonly #labels: string;

  /** stats: null while it has no tables yet. */
  constructor(
    shard: string,
    private readonly stats: () => ShardStats | null,
  ) {
    this.#labels = labelText({ shard });
    register(this.registry, this.#families());
    addProcessMetrics(this.registry);
  }

  /** Whether it takes requests. */
  get ready(): boolean {
    return this.stats()?.state === 'ready';
  }

  /** The text format in pieces, each of use until the next is asked for. */
  pieces(): AsyncIterable<Uint8Array> {
    const slices = new Slices();
    return rendered(sectionsOf(this.registry, slices), slices);
  }

  #family({ labels = [], ...spec }: PartOfSpec, add: (samples: Samples, stats: ShardStats) => void): Family {
    return new Family({ ...spec, labels: ['shard', ...labels] }, (samples) => {
      const stats = this.stats();
      if (stats !== null) add(samples, stats);
      return [];
    });
  }

  #families(): Family[] {
    const labels = this.#labels;
    const [ready, info] = ['terabag_shard_ready', 'terabag_shard_info'];
    const numbers = Object.entries(SHARD_METRICS).flatMap(([key, name]) => {
      if (name === null) return [];
      const field = key as keyof typeof SHARD_METRICS;
      const { kind, description } = SHARD_STATS[field];
      const help = description.replace('Milliseconds', 'Seconds');
      const isCounter = kind === 'counter' || kind === 'counters';
      return [
        this.#family(
          { name, help, type: isCounter ? 'counter' : 'gauge', labels: kind === 'counters' ? ['table'] : [] },
          (samples, stats) => {
            const value = stats[field];
            if (typeof value === 'number') samples.add(name, labels, value / (PER_SECOND[field] ?? 1));
            else if (typeof value === 'object')
              for (const [table, count] of Object.entries(value ?? {}))
                samples.add(name, `${labels},table="${escapedLabel(table)}"`, count);
          },
        ),
      ];
    });
    return [
      new Family({ name: ready, help: '1 while the shard takes requests.', type: 'gauge', labels: ['shard'] }, (samples) => {
        samples.add(ready, labels, Number(this.ready));
        return [];
      }),
      this.#family(
        {
          name: info,
          help: '1, with what the shard serves as labels.',
          type: 'gauge',
          labels: ['model_hash', 'plan_hash', 'epoch', 'kernels'],
        },
        (samples, { model, plan, epoch, kernels }) =>
          samples.add(info, `${labels},${labelText({ model_hash: model, plan_hash: plan, epoch, kernels })}`, 1),
      ),
      ...numbers,
    ];
  }
}

type PartOfSpec = Omit<FamilySpec, 'labels'> & { readonly labels?: readonly string[] };
