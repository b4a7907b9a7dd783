import type { Interval, TracedRequest } from './traced-request.js';

/** What a request's time can be put down to, moment by moment. hop: of a job, to its thread and back. */
export type Occupation = 'dense' | 'collection' | 'serialization' | 'service' | 'overhead' | 'embedded' | 'hop' | 'unattributed';

/**
 * Where several go on at once, the first of these has the moment: layers run on threads of their own; a collection stops the main thread, whose
 * work comes before waiting for pooled vectors.
 */
const PRECEDENCE: readonly Occupation[] = ['dense', 'collection', 'serialization', 'service', 'overhead', 'embedded', 'hop'];

export interface Segment extends Interval {
  readonly occupation: Occupation;
}

const PHASE_OCCUPATION = { admission: 'overhead', check: 'overhead', partition: 'overhead', place: 'service', finish: 'overhead' } as const;

/** The request from start to end as segments that neither overlap nor leave a gap. */
export function timeline(request: TracedRequest): Segment[] {
  const { startUs, endUs } = request;
  const within = (us: number): number => Math.min(endUs, Math.max(startUs, us));
  const edges = spans(request).flatMap((span) => {
    const [from, to] = [within(span.startUs), within(span.endUs)];
    const rank = PRECEDENCE.indexOf(span.occupation);
    return from < to
      ? [
          { us: from, rank, step: 1 },
          { us: to, rank, step: -1 },
        ]
      : [];
  });
  edges.push({ us: endUs, rank: 0, step: 0 });
  edges.sort((a, b) => a.us - b.us);
  const active = PRECEDENCE.map(() => 0);
  const segments: Segment[] = [];
  let from = startUs;
  for (const { us, rank, step } of edges) {
    if (us > from) {
      const occupation = PRECEDENCE[active.findIndex((count) => count > 0)] ?? 'unattributed';
      segments.push({ startUs: from, endUs: us, occupation });
      from = us;
    }
    active[rank] = (active[rank] as number) + step;
  }
  return segments;
}

function spans(request: TracedRequest): Segment[] {
  const { phases, jobs, rpcs, collections } = request;
  return [
    ...phases.map((phase): Segment => ({ ...phase, occupation: PHASE_OCCUPATION[phase.kind] })),
    ...jobs.flatMap((job): Segment[] => {
      if (job.kind === 'pool') return [{ ...job, occupation: 'embedded' }];
      const ranFrom = Math.min(job.endUs, job.startUs + job.queuedUs);
      return chain(job.startUs, [
        [ranFrom, 'hop'],
        [Math.min(job.endUs, ranFrom + job.ranUs), 'dense'],
        [job.endUs, 'hop'],
      ]);
    }),
    ...rpcs.flatMap(({ startUs, serializedUs, sentUs, receivedUs, endUs }) =>
      chain(startUs, [
        [serializedUs ?? endUs, 'serialization'],
        [sentUs ?? serializedUs ?? endUs, 'service'],
        [receivedUs ?? endUs, 'embedded'],
        [endUs, 'serialization'],
      ]),
    ),
    ...collections.map((pause): Segment => ({ ...pause, occupation: 'collection' })),
    ...resumptions(request),
  ];
}

/** Segments one after another, each until the given time. */
function chain(startUs: number, ends: readonly (readonly [endUs: number, occupation: Occupation])[]): Segment[] {
  let from = startUs;
  return ends.map(([endUs, occupation]) => {
    const segment = { startUs: from, endUs, occupation };
    from = endUs;
    return segment;
  });
}

/** What promises take: from the last thing that was waited for until the work that waited goes on. Nothing else runs between. */
function resumptions({ phases, jobs, rpcs }: TracedRequest): Segment[] {
  return phases.flatMap(({ kind, batch, round, startUs }): Segment[] => {
    if (kind !== 'place' && kind !== 'finish') return [];
    const waitedFor = [...rpcs, ...jobs].filter(
      (span) => span.endUs <= startUs && (kind === 'finish' || (span.batch === batch && span.round === round)),
    );
    const last = waitedFor.reduce((latest, span) => Math.max(latest, span.endUs), Number.NEGATIVE_INFINITY);
    return last === Number.NEGATIVE_INFINITY ? [] : [{ startUs: last, endUs: startUs, occupation: 'overhead' }];
  });
}

/**
 * How long main's event loop was awake while the request waited between the given times: for other requests, or on the way from the socket.
 * Stamps of what the loop has slept in all stand with every RPC.
 */
export function busyWaitingUs(request: TracedRequest, segments: readonly Segment[], fromUs: number, toUs: number): number {
  const stamps = request.rpcs
    .flatMap(({ sentUs, receivedUs, idleSentUs, idleReceivedUs }) => [
      ...(sentUs === null ? [] : [{ us: sentUs, idleUs: idleSentUs }]),
      ...(receivedUs === null ? [] : [{ us: receivedUs, idleUs: idleReceivedUs }]),
    ])
    .filter(({ us }) => us >= fromUs && us <= toUs)
    .sort((a, b) => a.us - b.us);
  let busyUs = 0;
  for (let s = 1; s < stamps.length; s++) {
    const [before, after] = [stamps[s - 1], stamps[s]] as [(typeof stamps)[number], (typeof stamps)[number]];
    const sleptUs = Math.max(0, after.idleUs - before.idleUs);
    busyUs += Math.max(0, occupiedUs(segments, 'embedded', before.us, after.us) - sleptUs);
  }
  return busyUs;
}

/** How much of the time between is occupied so. */
export function occupiedUs(segments: readonly Segment[], occupation: Occupation, fromUs: number, toUs: number): number {
  return segments.reduce((sum, segment) => {
    if (segment.occupation !== occupation) return sum;
    return sum + Math.max(0, Math.min(toUs, segment.endUs) - Math.max(fromUs, segment.startUs));
  }, 0);
}
