import { quantile } from '../report/quantiles.js';

/** What the server took for one request, ms. */
export interface ServerStages {
  /** From its headers to the answer. */
  readonly total: number;
  /** Until its body was there. */
  readonly read: number;
  readonly decode: number;
  readonly predict: number;
  readonly encode: number;
}

const NAMES = ['total', 'read', 'decode', 'predict', 'encode'] as const;

/** Of a Server-Timing header; null of one that does not tell all of them. */
export function parseServerTiming(header: string | string[] | undefined): ServerStages | null {
  if (typeof header !== 'string') return null;
  const told = new Map([...header.matchAll(/(\w+);dur=([\d.]+)/g)].map(([, name, ms]) => [name, Number(ms)]));
  if (!NAMES.every((name) => Number.isFinite(told.get(name)))) return null;
  return Object.fromEntries(NAMES.map((name) => [name, told.get(name)])) as unknown as ServerStages;
}

/**
 * predict: the predictor's own time. decode and encode: between bytes and the predictor's request and answer. http: all else of the round trip, which
 * is both ends of the connection, the network, and the server's event loop while it was busy with others.
 */
export const ENDPOINT_LAYERS = ['predict', 'decode', 'encode', 'http'] as const;
export type EndpointLayer = (typeof ENDPOINT_LAYERS)[number];

/** Where the time of requests around a quantile goes: means, so that layers add up. */
export interface EndpointStack {
  readonly quantile: number;
  readonly requests: number;
  readonly totalMs: number;
  readonly layers: Readonly<Record<EndpointLayer, number>>;
}

/** Share of all requests that a stack is the mean of, half of them on either side of the quantile. */
const SHARE = 0.02;

/** Round trips and what the server took of them. */
export class EndpointStacks {
  readonly #samples: { readonly ms: number; readonly stages: ServerStages }[] = [];

  add(ms: number, stages: ServerStages): void {
    this.#samples.push({ ms, stages });
  }

  get count(): number {
    return this.#samples.length;
  }

  /** Null without a sample. */
  at(q: number): EndpointStack | null {
    const ascending = [...this.#samples].sort((a, b) => a.ms - b.ms);
    if (ascending.length === 0) return null;
    const rank = ascending.findIndex(
      ({ ms }) =>
        ms ===
        quantile(
          ascending.map((sample) => sample.ms),
          q,
        ),
    );
    const beside = Math.floor((SHARE * ascending.length) / 2);
    const around = ascending.slice(Math.max(0, rank - beside), rank + beside + 1);
    const mean = (of: (sample: (typeof around)[number]) => number): number =>
      around.reduce((sum, sample) => sum + of(sample), 0) / around.length;
    const [totalMs, predict, decode, encode] = [
      mean(({ ms }) => ms),
      mean(({ stages }) => stages.predict),
      mean(({ stages }) => stages.decode),
      mean(({ stages }) => stages.encode),
    ];
    const http = Math.max(0, totalMs - predict - decode - encode);
    return { quantile: q, requests: around.length, totalMs, layers: { predict, decode, encode, http } };
  }
}
