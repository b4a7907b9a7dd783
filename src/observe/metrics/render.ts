import { type Metric, type MetricObjectWithValues, type MetricValue, Registry } from 'prom-client';
import { type Aggregator, Family, labelText, type Samples, type Sampling } from './family.js';

/**
 * How long text is written before other work gets its turn: with the write to a socket that follows, below 200 us (`npm run bench -- metrics`).
 * prom-client's own serializer does not stop: 25,000 series hold the event loop for tens of milliseconds.
 */
const SLICE_MS = 0.05;
/** Lines between two looks at the clock. */
const LINES = 8;
/** Bytes of a piece, and of its memory: what is added between two steps is far less than the difference. */
const [PIECE_BYTES, MEMORY_BYTES] = [2 ** 14, 2 ** 15];

export const CONTENT_TYPE: string = Registry.PROMETHEUS_CONTENT_TYPE;

/** Metrics of one name as the text format has them, one after another. */
export interface Section {
  readonly name: string;
  readonly help: string;
  readonly type: string;
  readonly aggregator: Aggregator | 'omit';
  readonly sample: Sampling;
}

/** Makes families part of a registry, which refuses a name that it has. */
export function register(registry: Registry, families: Iterable<Family>): void {
  // A family is what the registry asks of a metric: a name, and get().
  for (const family of families) registry.registerMetric(family as unknown as Metric);
}

/** Turns of the event loop are given one after another: of several scrapes at a time, one has a slice of a turn. */
let lastTurn: Promise<unknown> = Promise.resolve();

/** Work in slices: after each, the event loop does what else there is. */
export class Slices {
  #until = 0;

  get isOver(): boolean {
    return performance.now() >= this.#until;
  }

  /** Waits for a turn of the event loop. */
  async next(): Promise<void> {
    lastTurn = lastTurn.then(() => new Promise((resolve) => setImmediate(resolve)));
    await lastTurn;
    this.#until = performance.now() + SLICE_MS;
  }
}

/** All metrics of a registry; those of prom-client's own classes take a turn of the event loop each. */
export async function* sectionsOf(registry: Registry, slices: Slices): AsyncGenerator<Section> {
  for (const metric of registry.getMetricsAsArray() as unknown as readonly (Family | Readable)[]) {
    if (metric instanceof Family) {
      yield metric;
      continue;
    }
    await slices.next();
    const { values, ...described } = await metric.get();
    yield { ...described, aggregator: described.aggregator as Section['aggregator'], sample: samplingOf(described.name, values) };
  }
}

/** A metric of prom-client. */
interface Readable {
  get(): Promise<Omit<MetricObjectWithValues<MetricValue<string>>, 'type'> & { readonly type: string }>;
}

function samplingOf(name: string, values: readonly (MetricValue<string> & { readonly metricName?: string })[]): Sampling {
  return function* (samples) {
    for (const { metricName = name, labels, value } of values) {
      samples.add(metricName, labelText(labels as Readonly<Record<string, string | number>>), value);
      yield;
    }
  };
}

/** Writes lines of the text format into memory that is used again. */
class TextWriter implements Samples {
  #memory = Buffer.allocUnsafeSlow(MEMORY_BYTES);
  #length = 0;
  lines = 0;

  get length(): number {
    return this.#length;
  }

  /** What was written since the last call; of use until something is written again. */
  take(): Uint8Array {
    const taken = this.#memory.subarray(0, this.#length);
    this.#length = 0;
    return taken;
  }

  describe({ name, help, type }: Section): void {
    this.#write(`# HELP ${name} ${help.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')}\n# TYPE ${name} ${type}\n`);
  }

  add(name: string, labels: string, value: number): void {
    this.#write(name);
    if (labels !== '') {
      this.#write('{');
      this.#write(labels);
      this.#write('}');
    }
    this.#write(' ');
    this.#write(valueText(value));
    this.#write('\n');
    this.lines++;
  }

  #write(text: string): void {
    // A character of UTF-16 has 3 bytes at most.
    if (this.#length + 3 * text.length > this.#memory.length) this.#grow(this.#length + 3 * text.length);
    const memory = this.#memory;
    if (text.length === 1) memory[this.#length++] = text.charCodeAt(0);
    else this.#length += memory.write(text, this.#length);
  }

  #grow(bytes: number): void {
    const larger = Buffer.allocUnsafeSlow(2 * bytes);
    this.#memory.copy(larger, 0, 0, this.#length);
    this.#memory = larger;
  }
}

/** The text format (0.0.4) of metrics in pieces, each of a turn of the event loop of its own, and of use until the next is asked for. */
export async function* rendered(sections: AsyncIterable<Section>, slices: Slices): AsyncGenerator<Uint8Array> {
  const text = new TextWriter();
  let lookedAt = 0;
  await slices.next();
  for await (const section of sections) {
    text.describe(section);
    for (const _ of section.sample(text)) {
      if (text.lines < lookedAt + LINES) continue;
      lookedAt = text.lines;
      if (text.length < PIECE_BYTES && !slices.isOver) continue;
      yield text.take();
      await slices.next();
    }
    if (text.length < PIECE_BYTES && !slices.isOver) continue;
    yield text.take();
    await slices.next();
  }
  if (text.length > 0) yield text.take();
}

function valueText(value: number): string {
  if (Number.isFinite(value)) return String(value);
  if (Number.isNaN(value)) return 'NaN';
  return value > 0 ? '+Inf' : '-Inf';
}
