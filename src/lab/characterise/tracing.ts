import { chromeTrace } from '../../observe/chrome-trace.js';
import { stacksAtQuantile } from '../../observe/quantile-stacks.js';
import type { Stack } from '../../observe/stacks.js';
import type { TracedRequest } from '../../observe/traced-request.js';
import { Tracer } from '../../observe/tracer.js';
import type { CharacterisedRun, StackLayers, Waterfall } from '../report/characterisation.js';
import type { Setup } from './setup.js';

const QUANTILES = [0.5, 0.99];
/** Spans of one RPC per shard and net, and main's own. */
const SPANS = 48;

/**
 * Keeps the stages of so many requests, once it is enabled. Null where a request is cut into batches: singular's would be traced as requests of
 * their own, and the paper's have hundreds of RPCs.
 */
export function openTracer({ batchItems }: Setup, requests: number): Tracer | null {
  if (batchItems !== null) return null;
  const tracer = new Tracer({ capacity: requests, spans: SPANS, cpu: true });
  tracer.enabled = false;
  return tracer;
}

const US_PER_MS = 1000;

/** Where time goes at the median and at P99; empty without a traced request that was answered. */
export function stacksOf(tracer: Tracer | null): CharacterisedRun['stacks'] {
  const requests = answered(tracer);
  if (requests.length === 0) return [];
  return QUANTILES.map((q) => {
    const { quantile, requests: averaged, latency, embedded, compute } = stacksAtQuantile(requests, q);
    return { quantile, requests: averaged, latency: layersOf(latency), embedded: layersOf(embedded), compute: layersOf(compute) };
  });
}

export const answered = (tracer: Tracer | null): TracedRequest[] =>
  (tracer?.requests() ?? []).filter(({ complete, error }) => complete && error === null);

const layersOf = ({ layers }: Stack<string>): StackLayers =>
  Object.entries(layers).map(([layer, us]) => ({ layer, ms: Math.max(0, us) / US_PER_MS }));

/** The request of median latency. */
export function medianRequest(requests: readonly TracedRequest[]): TracedRequest | null {
  const ascending = [...requests].sort((a, b) => a.endUs - a.startUs - (b.endUs - b.startUs));
  return ascending[Math.floor((ascending.length - 1) / 2)] ?? null;
}

/** The layer that a span of a Chrome trace belongs to; spans that hold others are not here. */
const LAYER_OF_SPAN: Readonly<Record<string, string>> = {
  ...{ admission: 'overhead', check: 'overhead', partition: 'overhead', finish: 'overhead', place: 'service' },
  ...{ 'dense layers': 'dense', 'own tables': 'sparse', 'garbage collection': 'collection' },
  ...{ serialize: 'serialization', send: 'service', network: 'network', 'deserialize answer': 'serialization' },
  ...{ 'shard: deserialize': 'serialization', 'shard: dispatch': 'overhead', 'shard: queue': 'queueing' },
  ...{ 'shard: pool': 'sparse', 'shard: handBack': 'queueing', 'shard: serialize': 'serialization' },
};

/** One request as bars: the spans of its Chrome trace that hold no others, main's first and then shard by shard. */
export function waterfallOf(traced: TracedRequest, described: { readonly configuration: string; readonly request: string }): Waterfall {
  const { traceEvents } = chromeTrace([traced]);
  const processes = new Map(traceEvents.flatMap(({ name, pid, args }) => (name === 'process_name' ? [[pid, String(args['name'])]] : [])));
  const threads = new Map(
    traceEvents.flatMap(({ name, pid, tid, args }) => (name === 'thread_name' ? [[`${pid}.${tid}`, String(args['name'])]] : [])),
  );
  const lane = (pid: number, tid: number): string => {
    const thread =
      threads
        .get(`${pid}.${tid}`)
        ?.replace(/^lane \d+, /, '')
        .replace(', batch 0', '') ?? '';
    return pid === 1 ? (thread === 'requests' ? 'main' : thread) : (processes.get(pid)?.replace('RPCs to ', '') ?? String(pid));
  };
  return {
    ...described,
    items: traced.items,
    latencyMs: (traced.endUs - traced.startUs) / US_PER_MS,
    spans: traceEvents
      .filter(({ name }) => name in LAYER_OF_SPAN)
      .map(({ name, pid, tid, ts, dur = 0 }) => ({
        lane: lane(pid, tid),
        name,
        startMs: Math.max(0, ts - traced.startUs) / US_PER_MS,
        durationMs: Math.max(0, dur) / US_PER_MS,
        layer: LAYER_OF_SPAN[name] ?? null,
      }))
      .sort((a, b) => Number(b.lane === 'main') - Number(a.lane === 'main')),
  };
}
