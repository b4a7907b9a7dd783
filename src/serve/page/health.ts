import type { ReplicaState } from '../../rpc/client.js';
import type { Health } from './snapshot.js';

/** A replica is slow that takes so many times what its siblings take, and so much more: on a loaded machine, small times differ by much. */
const SIBLING_RATIO = 3;
const SIBLING_MORE_MS = 5;
/** The same of a sole replica, compared with those of other shards, which have other tables. */
const OTHER_RATIO = 6;
const OTHER_MORE_MS = 20;
/** Owing a sign for so long is slow: heartbeats are answered in a millisecond. */
const UNHEARD_MS = 400;
/** What a replica took longer ago says nothing of it now. */
const LATEST_MS = 15_000;
/** Medians of so many looks are compared, at least of so many that something was measured at: a pause is not slowness. */
const LOOKS = 5;
const LEAST_LOOKS = 3;

export interface JudgedReplica {
  readonly health: Health;
  readonly why: string;
}

const UP: JudgedReplica = { health: 'up', why: '' };

/** A replica with what it took at the latest looks, null where nothing was measured. */
interface Seen {
  readonly state: ReplicaState;
  readonly latencies: readonly (number | null)[];
  readonly roundTrips: readonly (number | null)[];
}

/** Tells how replicas are; to be asked once a second. */
export class HealthWatch {
  #seen = new Map<string, Seen>();

  judge(states: readonly ReplicaState[]): JudgedReplica[] {
    const seen = states.map((state): Seen => {
      const { latencyMs, latencyAgeMs, roundTripMs, ready } = state;
      // Of before it was away nothing is said.
      const before = ready ? this.#seen.get(keyOf(state)) : undefined;
      const latency = latencyAgeMs !== null && latencyAgeMs <= LATEST_MS ? latencyMs : null;
      return {
        state,
        latencies: [...(before?.latencies ?? []), latency].slice(-LOOKS),
        roundTrips: [...(before?.roundTrips ?? []), roundTripMs].slice(-LOOKS),
      };
    });
    this.#seen = new Map(seen.map((each) => [keyOf(each.state), each]));
    return seen.map((each): JudgedReplica => {
      const away = whyAway(each.state);
      if (away !== null) return away;
      if (each.state.unheardMs >= UNHEARD_MS) return { health: 'slow', why: `no sign for ${shownMs(each.state.unheardMs)}` };
      const why = whySlow(each, seen);
      return why === null ? UP : { health: 'slow', why };
    });
  }
}

const keyOf = ({ shard, endpoint }: ReplicaState): string => `${shard} ${endpoint}`;

function whyAway(state: ReplicaState): JudgedReplica | null {
  const { ready, draining, ejected } = state;
  if (draining) return { health: 'draining', why: 'takes no more requests' };
  if (!ready) return { health: 'down', why: reasonOf(state) };
  return ejected ? { health: 'ejected', why: 'its answers failed: it is given no requests for a while' } : null;
}

/** Without the shard's name and place, which stand beside it. */
function reasonOf({ shard, endpoint, why }: ReplicaState): string {
  const place = `: ${shard} at ${endpoint}`;
  const message = why?.message ?? 'takes no requests';
  return (message.endsWith(place) ? message.slice(0, -place.length) : message).replace(/^shard /, '');
}

/** What it takes much longer for than its siblings, or, without siblings, than replicas of other shards. */
function whySlow(one: Seen, all: readonly Seen[]): string | null {
  const others = all.filter((other) => other !== one && other.state.ready);
  const siblings = others.filter(({ state }) => state.shard === one.state.shard);
  const [peers, ratio, moreMs, whose] =
    siblings.length > 0
      ? ([siblings, SIBLING_RATIO, SIBLING_MORE_MS, 'its siblings'] as const)
      : ([others, OTHER_RATIO, OTHER_MORE_MS, 'other shards'] as const);
  for (const [what, measure] of [
    ['answers take', ({ latencies }: Seen) => usualMs(latencies)],
    ['heartbeats take', ({ roundTrips }: Seen) => usualMs(roundTrips)],
  ] as const) {
    const own = measure(one);
    const usual = median(peers.map(measure).filter((ms) => ms !== null));
    if (own !== null && usual !== null && own > ratio * usual && own > usual + moreMs)
      return `${what} ${shownMs(own)}, those of ${whose} ${shownMs(usual)}`;
  }
  return null;
}

function usualMs(looks: readonly (number | null)[]): number | null {
  const measured = looks.filter((ms) => ms !== null);
  return measured.length < LEAST_LOOKS ? null : median(measured);
}

function median(values: readonly number[]): number | null {
  const ascending = [...values].sort((a, b) => a - b);
  return ascending[Math.floor((ascending.length - 1) / 2)] ?? null;
}

const shownMs = (ms: number): string => `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
