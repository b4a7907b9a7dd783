import { SHARD_STAGES } from '../rpc/messages.js';
import { remotePart } from './stacks.js';
import type { Interval, TracedRequest, TracedRpc } from './traced-request.js';

/** An event of the Trace Event Format, which Perfetto and chrome://tracing open: X is a span, M names a process or a thread. */
export interface TraceEvent {
  readonly name: string;
  readonly ph: 'X' | 'M';
  readonly pid: number;
  readonly tid: number;
  /** Microseconds, with three decimals at most. */
  readonly ts: number;
  readonly dur?: number;
  readonly cat?: string;
  readonly args: Readonly<Record<string, string | number | boolean>>;
}

export interface ChromeTrace {
  readonly displayTimeUnit: 'ms';
  readonly traceEvents: readonly TraceEvent[];
}

const MAIN_PROCESS = 1;
const SPLIT = 'the network time is split evenly before and after the service: clocks of hosts are not compared';

/**
 * Requests as tracks. The main shard is a process, and so is each sparse shard, with its RPCs as main saw them and the shard's own stages within.
 * Requests that overlap in time lie on tracks of their own, and so do the batches of one.
 */
export function chromeTrace(requests: readonly TracedRequest[]): ChromeTrace {
  const shards = [...new Set(requests.flatMap(({ rpcs }) => rpcs.map(({ shard }) => shard)))].sort();
  const batches = 1 + Math.max(0, ...requests.flatMap(({ rpcs, jobs }) => [...rpcs, ...jobs].map(({ batch }) => batch)));
  const tracks = new Tracks();
  tracks.nameProcess(MAIN_PROCESS, 'main shard');
  shards.forEach((shard, s) => tracks.nameProcess(MAIN_PROCESS + 1 + s, `RPCs to ${shard}`));
  const lanes: number[] = [];
  for (const request of [...requests].sort((a, b) => a.startUs - b.startUs)) {
    const free = lanes.findIndex((endUs) => endUs <= request.startUs);
    const lane = free === -1 ? lanes.length : free;
    lanes[lane] = request.endUs;
    addMain(tracks, request, lane, batches);
    for (const rpc of request.rpcs) {
      const track = { pid: MAIN_PROCESS + 1 + shards.indexOf(rpc.shard), tid: lane * batches + rpc.batch + 1 };
      tracks.nameThread(track, `lane ${lane}, batch ${rpc.batch}`);
      addRpc(tracks, track, request, rpc);
    }
  }
  return { displayTimeUnit: 'ms', traceEvents: tracks.events() };
}

interface Track {
  readonly pid: number;
  readonly tid: number;
}

/** Collects events, and names every track once. */
class Tracks {
  readonly #named = new Set<string>();
  readonly #names: TraceEvent[] = [];
  readonly #spans: TraceEvent[] = [];

  nameProcess(pid: number, name: string): void {
    this.#names.push({ name: 'process_name', ph: 'M', pid, tid: 0, ts: 0, args: { name } });
  }

  nameThread({ pid, tid }: Track, name: string): void {
    const key = `${pid}.${tid}`;
    if (this.#named.has(key)) return;
    this.#named.add(key);
    this.#names.push({ name: 'thread_name', ph: 'M', pid, tid, ts: 0, args: { name } });
  }

  add({ pid, tid }: Track, cat: string, name: string, { startUs, endUs }: Interval, args: TraceEvent['args'] = {}): void {
    // Start and end are rounded alike, so that what lies within stays within.
    const [from, to] = [Math.round(startUs * 1000), Math.round(endUs * 1000)];
    this.#spans.push({ name, cat, ph: 'X', pid, tid, ts: from / 1000, dur: (to - from) / 1000, args });
  }

  /** In the order of time; of those that begin together, the longer one first, as it holds the others. */
  events(): TraceEvent[] {
    return [...this.#names, ...this.#spans.sort((a, b) => a.ts - b.ts || (b.dur ?? 0) - (a.dur ?? 0))];
  }
}

function addMain(tracks: Tracks, request: TracedRequest, lane: number, batches: number): void {
  const { number, items, error, complete, phases, jobs, collections } = request;
  const first = lane * (2 + 2 * batches) + 1;
  const track = (offset: number, name: string): Track => {
    const at = { pid: MAIN_PROCESS, tid: first + offset };
    tracks.nameThread(at, `lane ${lane}, ${name}`);
    return at;
  };
  const requestArgs = { number, items, complete, ...(error !== null && { error }) };
  tracks.add(track(0, 'requests'), 'request', `request ${number}`, request, requestArgs);
  for (const phase of phases) tracks.add(track(0, 'requests'), 'main', phase.kind, phase, { batch: phase.batch, round: phase.round });
  for (const pause of collections) tracks.add(track(1, 'garbage collection'), 'main', 'garbage collection', pause);
  for (const job of jobs) {
    const [offset, name] = job.kind === 'dense' ? [0, 'dense layers'] : [1, 'own tables'];
    const at = track(2 + 2 * job.batch + offset, `${name}, batch ${job.batch}`);
    const { batch, round, cpuUs, interactionShare, onThread } = job;
    tracks.add(at, 'main', name, job, { batch, round, cpuUs, interactionShare, onThread });
    const ranFrom = Math.min(job.endUs, job.startUs + job.queuedUs);
    const ranTo = Math.min(job.endUs, ranFrom + job.ranUs);
    if (job.queuedUs > 0) tracks.add(at, 'main', 'queued', { startUs: job.startUs, endUs: ranFrom });
    if (job.ranUs > 0) tracks.add(at, 'main', 'run', { startUs: ranFrom, endUs: ranTo });
  }
}

function addRpc(tracks: Tracks, track: Track, { number, endUs: requestEndUs }: TracedRequest, rpc: TracedRpc): void {
  const { batch, round, startUs, serializedUs, sentUs, receivedUs, endUs, stages } = rpc;
  const answered = receivedUs !== null;
  tracks.add(track, 'rpc', `rpc of request ${number}`, rpc, { shard: rpc.shard, batch, round, answered });
  const between = (name: string, from: number | null, to: number | null, cat = 'rpc', args: TraceEvent['args'] = {}): void => {
    if (from !== null && to !== null && from <= to && to <= requestEndUs) tracks.add(track, cat, name, { startUs: from, endUs: to }, args);
  };
  const { sendingUs, wayUs, scale } = remotePart(rpc);
  const served = serializedUs !== null && receivedUs !== null && stages !== null;
  const onWayUs = served ? serializedUs + sendingUs : sentUs;
  between('serialize', startUs, serializedUs);
  between('send', serializedUs, onWayUs);
  between('deserialize answer', receivedUs, endUs);
  if (!served || onWayUs === null) return;
  let at = onWayUs + wayUs / 2;
  between('network', onWayUs, at, 'network', { placement: SPLIT });
  for (const name of SHARD_STAGES) {
    if (name === 'poolCpuUs') continue;
    const next = Math.min(receivedUs, at + stages[name] * scale);
    const args = name === 'poolUs' ? { cpuUs: stages.poolCpuUs, placement: SPLIT } : { placement: SPLIT };
    between(`shard: ${name.slice(0, -2)}`, at, next, 'shard', args);
    at = next;
  }
  between('network', at, receivedUs, 'network', { placement: SPLIT });
}
