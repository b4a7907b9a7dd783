import type { Buckets } from '../buckets.js';

/** How values of several processes become one: as prom-client's aggregators of these names. */
export type Aggregator = 'sum' | 'min' | 'max' | 'first' | 'average';

export interface FamilySpec {
  readonly name: string;
  readonly help: string;
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly labels: readonly string[];
  /** Default sum. */
  readonly aggregator?: Aggregator;
}

/** Takes samples one after another. */
export interface Samples {
  /** name: with the suffix of a histogram's; labels: as labelText gives them. */
  add(name: string, labels: string, value: number): void;
}

/** Adds the samples there are; each yield is a place where other work may have its turn. */
export type Sampling = (samples: Samples) => Iterable<void>;

/** As the text format writes it. */
export const escapedLabel = (value: string): string =>
  /[\\"\n]/.test(value) ? value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n') : value;

/** Labels as they stand between braces. */
export const labelText = (labels: Readonly<Record<string, string | number>>): string =>
  Object.entries(labels)
    .map(([name, value]) => `${name}="${escapedLabel(String(value))}"`)
    .join(',');

/**
 * Metrics of one name, whose values are read where they are counted when somebody asks: nothing is counted twice. Names and labels are texts that are made
 * once: 25,000 objects a scrape would be garbage, whose collection holds the event loop.
 */
export class Family {
  readonly name: string;
  readonly help: string;
  readonly type: FamilySpec['type'];
  readonly labels: readonly string[];
  readonly aggregator: Aggregator;

  constructor(
    { name, help, type, labels, aggregator = 'sum' }: FamilySpec,
    readonly sample: Sampling,
  ) {
    this.name = name;
    this.help = help;
    this.type = type;
    this.labels = labels;
    this.aggregator = aggregator;
  }

  /** For prom-client's own serializer and for users of the registry. */
  async get(): Promise<object> {
    const { name, help, type, aggregator } = this;
    const values: { value: number; labels: Readonly<Record<string, string>>; metricName: string }[] = [];
    const steps = this.sample({ add: (metricName, labels, value) => values.push({ value, metricName, labels: labelsOf(labels) }) });
    for (const _ of steps);
    return { name, help, type, aggregator, values };
  }
}

const UNESCAPED: Readonly<Record<string, string>> = { '\\\\': '\\', '\\"': '"', '\\n': '\n' };

function labelsOf(text: string): Readonly<Record<string, string>> {
  const labels: Record<string, string> = {};
  for (const [, name = '', value = ''] of text.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g))
    labels[name] = value.replaceAll(/\\./g, (escaped) => UNESCAPED[escaped] ?? escaped);
  return labels;
}

export function addHistogram(samples: Samples, name: string, labels: string, { bounds, counts, sum, count }: Buckets): void {
  const first = labels === '' ? '' : `${labels},`;
  let below = 0;
  for (let bucket = 0; bucket < bounds.length; bucket++) {
    below += counts[bucket] as number;
    samples.add(`${name}_bucket`, `${first}le="${bounds[bucket]}"`, below);
  }
  samples.add(`${name}_bucket`, `${first}le="+Inf"`, count);
  samples.add(`${name}_sum`, labels, sum);
  samples.add(`${name}_count`, labels, count);
}
