import { MAIN_SHARD } from '../plan/file/plan.js';
import { SHARD_STAGES } from '../rpc/messages.js';
import { busyWaitingUs, occupiedUs, type Segment, timeline } from './timeline.js';
import type { TracedJob, TracedRequest, TracedRpc } from './traced-request.js';

/** Where time goes, in microseconds; the layers add up to the total. */
export interface Stack<Layer extends string> {
  readonly totalUs: number;
  readonly layers: Readonly<Record<Layer, number>>;
}

/**
 * dense and interaction: the dense ops. embedded: waiting for pooled vectors, as far as nothing of the request ran on main meanwhile.
 * serialization: of the RPCs, at main. service: handing them to the socket, and placing their vectors. overhead: admission, checks, partition,
 * promises. collection: garbage. eventLoop: while main waited, its event loop was busy with something else; and the addon's jobs on their way
 * to a thread and back.
 */
export const LATENCY_LAYERS = [
  'dense',
  'interaction',
  'embedded',
  'serialization',
  'service',
  'overhead',
  'collection',
  'eventLoop',
  'unattributed',
] as const;
export type LatencyLayer = (typeof LATENCY_LAYERS)[number];

/** The whole request, from the call of predict to its answer. */
export function latencyStack(request: TracedRequest): Stack<LatencyLayer> {
  const segments = timeline(request);
  const { startUs, endUs } = request;
  const us = (occupation: Segment['occupation']): number => occupiedUs(segments, occupation, startUs, endUs);
  const denseUs = us('dense');
  const interaction = denseUs * interactionShare(request.jobs);
  const waitingUs = us('embedded');
  const busy = Math.min(waitingUs, busyWaitingUs(request, segments, startUs, endUs));
  return {
    totalUs: endUs - startUs,
    layers: {
      dense: denseUs - interaction,
      interaction,
      embedded: waitingUs - busy,
      serialization: us('serialization'),
      service: us('service'),
      overhead: us('overhead'),
      collection: us('collection'),
      eventLoop: us('hop') + busy,
      unattributed: us('unattributed'),
    },
  };
}

/** The interaction's share of the time in dense layers, 0 to 1. */
function interactionShare(jobs: readonly TracedJob[]): number {
  const dense = jobs.filter(({ kind }) => kind === 'dense');
  const ranUs = sum(dense.map((job) => job.ranUs));
  return ranUs > 0 ? sum(dense.map((job) => job.ranUs * job.interactionShare)) / ranUs : 0;
}

/**
 * network: the RPC without the service on the shard, without sending, and without what the last two have of it. sparse: pooling. serialization:
 * at both ends. queueing: on the shard, or for main's own tables, to a thread of the addon and back. overhead: sending, and the shard's checks.
 * collection and eventLoop: of main, while it waited for this shard.
 */
export const EMBEDDED_LAYERS = ['network', 'sparse', 'serialization', 'queueing', 'overhead', 'collection', 'eventLoop'] as const;
export type EmbeddedLayer = (typeof EMBEDDED_LAYERS)[number];

export interface EmbeddedStack extends Stack<EmbeddedLayer> {
  /** The shard that answered last, of each round; main when its own tables took longest. */
  readonly bounding: readonly string[];
}

/** The embedded portion of the bounding shard, round after round of the batch that ended last, from encoding to the decoded answer. */
export function embeddedStack(request: TracedRequest): EmbeddedStack {
  const waits = [...request.rpcs, ...request.jobs.filter(({ kind }) => kind === 'pool')];
  const last = waits.reduce<(typeof waits)[number] | null>(
    (latest, wait) => (latest === null || wait.endUs > latest.endUs ? wait : latest),
    null,
  );
  const rounds = new Map<number, (typeof waits)[number]>();
  for (const wait of waits) {
    if (wait.batch === last?.batch && wait.endUs > (rounds.get(wait.round)?.endUs ?? Number.NEGATIVE_INFINITY))
      rounds.set(wait.round, wait);
  }
  const segments = timeline(request);
  const stacks = [...rounds.values()].map((wait) => ('kind' in wait ? ownTables(wait) : boundingRpc(request, segments, wait)));
  return {
    bounding: [...rounds.values()].map((wait) => ('kind' in wait ? MAIN_SHARD : wait.shard)),
    totalUs: sum([...rounds.values()].map(({ startUs, endUs }) => endUs - startUs)),
    layers: addLayers(EMBEDDED_LAYERS, stacks),
  };
}

type EmbeddedLayers = Readonly<Record<EmbeddedLayer, number>>;
const NO_LAYERS: EmbeddedLayers = { network: 0, sparse: 0, serialization: 0, queueing: 0, overhead: 0, collection: 0, eventLoop: 0 };

function ownTables({ startUs, endUs, ranUs }: TracedJob): EmbeddedLayers {
  const sparse = Math.min(ranUs, endUs - startUs);
  return { ...NO_LAYERS, sparse, queueing: endUs - startUs - sparse };
}

function boundingRpc(request: TracedRequest, segments: readonly Segment[], rpc: TracedRpc): EmbeddedLayers {
  const { startUs, endUs, stages } = rpc;
  const serializedUs = rpc.serializedUs ?? endUs;
  const sentUs = rpc.sentUs ?? serializedUs;
  const receivedUs = rpc.receivedUs ?? endUs;
  const { sendingUs, wayUs, scale } = remotePart(rpc);
  const stage = (name: (typeof SHARD_STAGES)[number]): number => (stages?.[name] ?? 0) * scale;
  const collection = Math.min(wayUs, occupiedUs(segments, 'collection', sentUs, receivedUs));
  const eventLoop = Math.min(wayUs - collection, busyWaitingUs(request, segments, sentUs, receivedUs));
  return {
    network: wayUs - collection - eventLoop,
    sparse: stage('poolUs'),
    serialization: serializedUs - startUs + (endUs - receivedUs) + stage('deserializeUs') + stage('serializeUs'),
    queueing: stage('queueUs') + stage('handBackUs'),
    overhead: sendingUs + stage('dispatchUs'),
    collection,
    eventLoop,
  };
}

/** An RPC between the encoded message and its answer: sending, the way there, the service, and the way back. */
export interface RemotePart {
  /** The part of the call of send that lies before the service: a shard may have the message before the call returns. */
  readonly sendingUs: number;
  /** There and back. */
  readonly wayUs: number;
  /** 1, or what the stages are to be multiplied with: the shard's clock may run faster, but its service is never longer than the RPC. */
  readonly scale: number;
}

export function remotePart(rpc: TracedRpc): RemotePart {
  const serializedUs = rpc.serializedUs ?? rpc.endUs;
  const remoteUs = (rpc.receivedUs ?? rpc.endUs) - serializedUs;
  const serviceUs = serviceTime(rpc);
  const scale = serviceUs > remoteUs ? remoteUs / serviceUs : 1;
  const besidesUs = Math.max(0, remoteUs - serviceUs * scale);
  const sendingUs = Math.min(besidesUs, (rpc.sentUs ?? serializedUs) - serializedUs);
  return { sendingUs, wayUs: besidesUs - sendingUs, scale };
}

/** From receiving to the encoded answer, on the shard's clock; 0 when it did not answer. */
export function serviceTime({ stages }: TracedRpc): number {
  return stages === null ? 0 : sum(SHARD_STAGES.map((name) => (name === 'poolCpuUs' ? 0 : stages[name])));
}

/**
 * As in the latency stack, over main and all shards, as CPU time. sparse: pooling. other: what main's thread did besides, known when CPU clocks
 * are read and no other traced request ran meanwhile: the event loop, sockets, promises, garbage. Not in it: threads of the sockets, and what
 * shards do around a message.
 */
export const COMPUTE_LAYERS = ['dense', 'interaction', 'sparse', 'serialization', 'service', 'overhead', 'other'] as const;
export type ComputeLayer = (typeof COMPUTE_LAYERS)[number];

/** CPU time: of jobs by their threads' clocks; of the short steps between, by the wall clock, cut to the main thread's CPU time where that is known. */
export function computeStack(request: TracedRequest): Stack<ComputeLayer> {
  const { phases, jobs, rpcs, alone, mainCpuUs } = request;
  const lengthOf = (wanted: readonly string[]): number =>
    sum(phases.filter(({ kind }) => wanted.includes(kind)).map(({ startUs, endUs }) => endUs - startUs));
  const encodingUs = sum(rpcs.map((rpc) => (rpc.serializedUs ?? rpc.endUs) - rpc.startUs));
  const decodingUs = sum(rpcs.map((rpc) => (rpc.receivedUs === null ? 0 : rpc.endUs - rpc.receivedUs)));
  const sendingUs = sum(rpcs.map((rpc) => (rpc.sentUs === null || rpc.serializedUs === null ? 0 : rpc.sentUs - rpc.serializedUs)));
  const main = {
    serialization: encodingUs + decodingUs,
    service: sendingUs + lengthOf(['place']),
    overhead: lengthOf(['admission', 'check', 'partition', 'finish']),
  };
  const stepsUs = main.serialization + main.service + main.overhead;
  const known = alone && mainCpuUs !== null;
  const restUs = Math.max(0, (mainCpuUs ?? 0) - sum(jobs.map((job) => (job.onThread ? 0 : job.cpuUs))));
  // The main thread may have been interrupted.
  const scale = known && stepsUs > restUs ? restUs / stepsUs : 1;
  const dense = jobs.filter(({ kind }) => kind === 'dense');
  const interaction = sum(dense.map((job) => job.cpuUs * job.interactionShare));
  const ofShards = (...names: readonly (typeof SHARD_STAGES)[number][]): number =>
    sum(rpcs.flatMap(({ stages }) => names.map((name) => stages?.[name] ?? 0)));
  const layers = {
    dense: sum(dense.map((job) => job.cpuUs)) - interaction,
    interaction,
    sparse: sum(jobs.map((job) => (job.kind === 'pool' ? job.cpuUs : 0))) + ofShards('poolCpuUs'),
    serialization: main.serialization * scale + ofShards('deserializeUs', 'serializeUs'),
    service: main.service * scale + ofShards('dispatchUs'),
    overhead: main.overhead * scale,
    other: known ? Math.max(0, restUs - stepsUs) : 0,
  };
  return { totalUs: sum(Object.values(layers)), layers };
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

export function addLayers<Layer extends string>(
  names: readonly Layer[],
  stacks: readonly Readonly<Record<Layer, number>>[],
): Record<Layer, number> {
  return Object.fromEntries(names.map((name) => [name, sum(stacks.map((layers) => layers[name]))])) as Record<Layer, number>;
}
