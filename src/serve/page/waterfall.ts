import type { PhaseKind } from '../../observe/layout.js';
import { remotePart } from '../../observe/stacks.js';
import type { TracedJob, TracedRequest, TracedRpc } from '../../observe/traced-request.js';
import { MAIN_SHARD } from '../../plan/file/plan.js';
import type { SlowRequest, WaterfallSpan } from './snapshot.js';

type Lanes = SlowRequest['lanes'];

const PHASE_LAYERS = {
  admission: 'overhead',
  check: 'overhead',
  partition: 'overhead',
  place: 'service',
  finish: 'overhead',
} as const satisfies Record<PhaseKind, string>;
/** Beyond, the shortest are left out. */
const MOST_LANES = 24;

/** A lane of main, and one for each shard: what went on when. */
export function waterfall(request: TracedRequest): Lanes {
  const { startUs, endUs } = request;
  const main: WaterfallSpan[] = [
    ...request.phases.map((phase) => ({ layer: PHASE_LAYERS[phase.kind], what: phase.kind, fromUs: phase.startUs, toUs: phase.endUs })),
    ...request.jobs.flatMap(jobSpans),
    ...request.collections.map((pause) => ({ layer: 'collection', what: 'garbage collection', fromUs: pause.startUs, toUs: pause.endUs })),
  ];
  const shards = new Map<string, WaterfallSpan[]>();
  for (const rpc of request.rpcs) shards.set(rpc.shard, [...(shards.get(rpc.shard) ?? []), ...rpcSpans(rpc)]);
  const lengthOf = (spans: readonly WaterfallSpan[]): number => Math.max(0, ...spans.map(({ toUs }) => toUs));
  const kept = [...shards.entries()].sort(([, a], [, b]) => lengthOf(b) - lengthOf(a)).slice(0, MOST_LANES);
  const relative = (us: number): number => Math.round((Math.min(endUs, Math.max(startUs, us)) - startUs) * 10) / 10;
  const cut = (spans: readonly WaterfallSpan[]): WaterfallSpan[] =>
    spans
      .map((span) => ({ ...span, fromUs: relative(span.fromUs), toUs: relative(span.toUs) }))
      .filter(({ fromUs, toUs }) => toUs > fromUs)
      .sort((a, b) => a.fromUs - b.fromUs);
  return [{ name: MAIN_SHARD, spans: cut(main) }, ...kept.map(([name, spans]) => ({ name, spans: cut(spans) }))];
}

function jobSpans({ kind, startUs, endUs, queuedUs, ranUs }: TracedJob): WaterfallSpan[] {
  const ranFrom = Math.min(endUs, startUs + queuedUs);
  const ranTo = Math.min(endUs, ranFrom + ranUs);
  const layer = kind === 'dense' ? 'dense' : 'sparse';
  return [
    { layer: 'eventLoop', what: 'to a thread', fromUs: startUs, toUs: ranFrom },
    { layer, what: kind === 'dense' ? 'dense layers' : 'pooling of its own tables', fromUs: ranFrom, toUs: ranTo },
    { layer: 'eventLoop', what: 'back from a thread', fromUs: ranTo, toUs: endUs },
  ];
}

/** The way there and the way back are taken for equal: clocks of hosts are not compared. */
function rpcSpans(rpc: TracedRpc): WaterfallSpan[] {
  const { startUs, endUs, stages } = rpc;
  const serializedUs = rpc.serializedUs ?? endUs;
  const spans: WaterfallSpan[] = [{ layer: 'serialization', what: 'encoding', fromUs: startUs, toUs: serializedUs }];
  let at = serializedUs;
  const add = (layer: string, what: string, us: number): void => {
    if (us > 0) spans.push({ layer, what, fromUs: at, toUs: at + us });
    at += us;
  };
  if (stages === null || rpc.receivedUs === null) {
    add('unattributed', rpc.sentUs === null ? 'was not sent' : 'was not answered', endUs - at);
    return spans;
  }
  const { sendingUs, wayUs, scale } = remotePart(rpc);
  add('overhead', 'sending', sendingUs);
  add('network', 'network', wayUs / 2);
  add('serialization', 'decoding on the shard', stages.deserializeUs * scale);
  add('overhead', 'checks on the shard', stages.dispatchUs * scale);
  add('queueing', 'queue of the shard', stages.queueUs * scale);
  add('sparse', 'pooling', stages.poolUs * scale);
  add('queueing', 'back from a thread', stages.handBackUs * scale);
  add('serialization', 'encoding on the shard', stages.serializeUs * scale);
  add('network', 'network', wayUs / 2);
  spans.push({ layer: 'serialization', what: 'decoding', fromUs: rpc.receivedUs, toUs: endUs });
  return spans;
}
