import type { LinkAttempt, ShardLink } from '../link.js';
import type { Candidate } from './choose.js';
import { Ejection } from './ejection.js';

/** The least weight of a latency in the smoothed one: some ten answers tell that a replica has become slow. */
const WEIGHT = 1 / 8;
/** A latency counts as at most so many times the smoothed one, so that one pause does not turn all load to the other replicas. */
const MOST_RISE = 8;
/** What is known of a replica that answers nothing counts half after so long, so that one that was slow is tried again. */
const HALF_LIFE_MS = 500;
/** How long a shard that refused a request as one too many is asked only when all are. */
const OVERLOADED_MS = 100;

/** A replica that has owed a sign for so long is asked only when all have: of two that are drawn by chance, both may be silent. */
const SILENT_MS = 100;

/** Tiers of a choice; see Candidate. */
const TIERS = { sound: 0, silent: 1, ejected: 2, retired: 3 } as const;

/** A link as one that requests can choose: how loaded and how slow it is, and whether it deserves them. */
export class Replica<A extends LinkAttempt> implements Candidate {
  readonly ejection: Ejection;
  /** Whether its endpoint is one of the shard's, still. */
  listed = true;
  /** Null before the first answer. */
  #latencyMs: number | null = null;
  #latencyAt = 0;
  #overloadedUntil = Number.NEGATIVE_INFINITY;

  constructor(
    readonly link: ShardLink<A>,
    now: number,
  ) {
    this.ejection = new Ejection(now);
  }

  /** Of the latest answers, smoothed; null before the first. */
  get latencyMs(): number | null {
    return this.#latencyMs;
  }

  /** When that was last observed. */
  get latencyAt(): number {
    return this.#latencyAt;
  }

  tier(now: number): number | null {
    if (!this.link.ready) return null;
    if (!this.listed) return TIERS.retired;
    if (!this.ejection.sound && !this.ejection.awaitsProbe(now)) return TIERS.ejected;
    return this.link.unheardMs(now) > SILENT_MS ? TIERS.silent : TIERS.sound;
  }

  /** Whether it may be asked for more than it has to be. */
  isSound(now: number): boolean {
    return this.tier(now) === TIERS.sound;
  }

  /** Requests that would be before this one, times what one takes. */
  cost(now: number): number {
    if (this.ejection.awaitsProbe(now)) return 0;
    if (now < this.#overloadedUntil) return Number.POSITIVE_INFINITY;
    const { inFlight, othersInFlight } = this.link;
    // Who has not answered yet gets one request to be known by, and others when there is nobody else.
    if (this.#latencyMs === null) return inFlight === 0 ? this.link.unheardMs(now) : Number.MAX_VALUE;
    const expectedMs = this.#latencyMs * this.#remembered(now);
    return (inFlight + othersInFlight + 1) * Math.max(expectedMs, this.link.unheardMs(now));
  }

  /** An attempt was answered after so long. */
  answered(ms: number, now: number): void {
    this.ejection.succeeded(now, now - ms);
    this.#observe(ms, now);
  }

  /** An attempt that is out for so long has no answer yet, and nobody waits for it any more: what one takes is at least that. */
  givenUp(ms: number, now: number): void {
    if (this.#latencyMs === null || ms > this.#latencyMs) this.#observe(ms, now);
  }

  overloaded(now: number): void {
    this.#overloadedUntil = now + OVERLOADED_MS;
  }

  #observe(ms: number, now: number): void {
    const smoothed = this.#latencyMs ?? ms;
    const weight = Math.max(WEIGHT, 1 - this.#remembered(now));
    this.#latencyMs = smoothed + (Math.min(ms, MOST_RISE * smoothed) - smoothed) * weight;
    this.#latencyAt = now;
  }

  /** What is left of the smoothed latency, 1 of one that is new. */
  #remembered(now: number): number {
    return 2 ** ((this.#latencyAt - now) / HALF_LIFE_MS);
  }
}
