import { TerabagError } from '../../errors.js';
import type { Aggregator } from './family.js';
import { rendered, type Section, Slices } from './render.js';

/** Samples of one message: few, so that neither end's event loop is held by it. */
const SAMPLES = 128;
/** A worker that does not answer is left out after so long. */
const TIMEOUT_MS = 5_000;

/** One end of the channel between a primary process and a worker of node:cluster: a Worker, or process. */
export interface Channel {
  /** What cannot be sent is told to callback: without one, a channel that is closed is an error that ends the process. */
  send?(message: object, handle?: undefined, options?: undefined, callback?: (error: Error | null) => void): unknown;
  on(event: 'message', listener: (message: unknown) => void): unknown;
  off(event: 'message', listener: (message: unknown) => void): unknown;
}

type Message =
  /** The primary asks a worker for its metrics. */
  | { readonly kind: 'terabag:sample'; readonly id: number }
  /** Some of them; the last is null. */
  | { readonly kind: 'terabag:samples'; readonly id: number; readonly part: Part | null }
  /** A worker asks its primary for the text of all. */
  | { readonly kind: 'terabag:scrape'; readonly id: number }
  /** A piece of it; the last is null. */
  | { readonly kind: 'terabag:text'; readonly id: number; readonly text: string | null };

interface Part extends Omit<Section, 'sample'> {
  readonly series: readonly string[];
  readonly values: readonly number[];
}

let lastId = 0;

/** In a worker: tells its primary its metrics when that asks. */
export function answerPrimary(sections: (slices: Slices) => AsyncIterable<Section>, channel: Channel = process): void {
  channel.on('message', (given) => {
    const message = given as Message;
    if (message?.kind === 'terabag:sample') void tell(message.id, sections, channel);
  });
}

async function tell(id: number, sections: (slices: Slices) => AsyncIterable<Section>, channel: Channel): Promise<void> {
  const slices = new Slices();
  const send = (part: Part | null): unknown =>
    channel.send?.({ kind: 'terabag:samples', id, part } satisfies Message, undefined, undefined, () => undefined);
  for await (const { name, help, type, aggregator, sample } of sections(slices)) {
    let [series, values]: [string[], number[]] = [[], []];
    const flush = (): void => {
      send({ name, help, type, aggregator, series, values });
      [series, values] = [[], []];
    };
    const steps = sample({
      add: (metric, labels, value) => {
        series.push(labels === '' ? metric : `${metric}{${labels}}`);
        values.push(value);
      },
    });
    for (const _ of steps) {
      if (series.length < SAMPLES) continue;
      flush();
      await slices.next();
    }
    flush();
    if (slices.isOver) await slices.next();
  }
  send(null);
}

/** What workers told of one name. */
interface Merged extends Omit<Section, 'sample'> {
  readonly samples: Map<string, { value: number; count: number }>;
}

const MERGE: Readonly<Record<Aggregator, (one: number, other: number) => number>> = {
  sum: (one, other) => one + other,
  // Divided by their number in the end.
  average: (one, other) => one + other,
  min: Math.min,
  max: Math.max,
  first: (one) => one,
};

/** In the primary: the metrics of all workers as one process's; each family says how its values become one. */
export async function* sectionsOfWorkers(workers: readonly Channel[], timeoutMs = TIMEOUT_MS): AsyncGenerator<Section> {
  const all = new Map<string, Merged>();
  await Promise.all(workers.map((worker) => askWorker(worker, (part) => merge(all, part), timeoutMs)));
  for (const { samples, ...section } of all.values()) {
    if (section.aggregator === 'omit') continue;
    yield {
      ...section,
      *sample(into) {
        for (const [series, { value, count }] of samples) {
          into.add(series, '', section.aggregator === 'average' ? value / count : value);
          yield;
        }
      },
    };
  }
}

function merge(all: Map<string, Merged>, { series, values, ...section }: Part): void {
  const merged = all.get(section.name) ?? { ...section, samples: new Map() };
  all.set(section.name, merged);
  if (merged.aggregator === 'omit') return;
  for (const [n, key] of series.entries()) {
    const value = values[n] as number;
    const sample = merged.samples.get(key);
    if (sample === undefined) merged.samples.set(key, { value, count: 1 });
    else {
      sample.value = MERGE[merged.aggregator](sample.value, value);
      sample.count++;
    }
  }
}

/** Resolves when it has told all, or says nothing for too long: counters of half a worker are better than no metrics. */
function askWorker(worker: Channel, onPart: (part: Part) => void, timeoutMs: number): Promise<void> {
  const id = ++lastId;
  return new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      worker.off('message', onMessage);
      resolve();
    };
    const timer = setTimeout(end, timeoutMs);
    const onMessage = (given: unknown): void => {
      const message = given as Message;
      if (message?.kind !== 'terabag:samples' || message.id !== id) return;
      if (message.part === null) end();
      else onPart(message.part);
    };
    worker.on('message', onMessage);
    if (sent(worker, { kind: 'terabag:sample', id }) === false) end();
  });
}

/** False: it is gone. */
function sent(channel: Channel, message: Message): boolean {
  try {
    channel.send?.(message, undefined, undefined, () => undefined);
    return true;
  } catch {
    return false;
  }
}

/** In the primary: answers a worker that is scraped with the text of all workers. */
export function answerWorker(worker: Channel, workers: () => readonly Channel[]): void {
  worker.on('message', (given) => {
    const message = given as Message;
    if (message?.kind === 'terabag:scrape') void sendText(message.id, worker, workers());
  });
}

async function sendText(id: number, worker: Channel, workers: readonly Channel[]): Promise<void> {
  for await (const piece of rendered(sectionsOfWorkers(workers), new Slices()))
    if (!sent(worker, { kind: 'terabag:text', id, text: Buffer.from(piece).toString() })) return;
  sent(worker, { kind: 'terabag:text', id, text: null });
}

/** In a worker: the text of all workers, which its primary makes; pieces as those of ServerMetrics. */
export async function* piecesOfPrimary(channel: Channel = process, timeoutMs = 2 * TIMEOUT_MS): AsyncGenerator<Uint8Array> {
  const id = ++lastId;
  const texts: (string | null)[] = [];
  let arrived: () => void = () => undefined;
  const onMessage = (given: unknown): void => {
    const message = given as Message;
    if (message?.kind !== 'terabag:text' || message.id !== id) return;
    texts.push(message.text);
    arrived();
  };
  channel.on('message', onMessage);
  try {
    sent(channel, { kind: 'terabag:scrape', id });
    for (;;) {
      if (texts.length === 0) await within(timeoutMs, new Promise<void>((resolve) => (arrived = resolve)));
      const text = texts.shift();
      if (text === null) return;
      if (text !== undefined) yield Buffer.from(text);
    }
  } finally {
    channel.off('message', onMessage);
  }
}

function within(ms: number, arrival: Promise<void>): Promise<void> {
  return new Promise((resolve, reject) => {
    const late = (): void => reject(new TerabagError('deadline_exceeded', `the primary process sent no metrics: ${ms} ms`));
    const timer = setTimeout(late, ms);
    void arrival.then(() => {
      clearTimeout(timer);
      resolve();
    });
  });
}
