/** What has to hold, whatever fails. */
export const INVARIANTS = {
  answer: 'An answer has the vectors that the request asked for, of the version that the client expects.',
  'one-end': 'Each request ends once: with an answer or one typed error.',
  deadline: 'Each request ends by its deadline, later only by what its own event loop was late.',
  degraded: 'An answer is degraded only when that is allowed, and says what was missing.',
  abort: 'A request whose signal is aborted ends at once.',
  'error-code': 'A request fails with a code that says what happened, and only what happened.',
  epoch: 'No request is sent to a shard that has not said that it serves the expected version.',
  budget: 'Retries and hedges together keep the budget.',
  'one-replica': 'No replica is asked for one request while it still works for an earlier attempt.',
  failover: 'While one replica of a shard is sound, no request fails, whatever becomes of the others.',
  spared: 'A shard is told when nobody waits for its answer any more.',
  cancelled: 'A shard does not begin to pool what was cancelled before, or whose peer it knows to be gone, and nobody gets its answer.',
  queue: 'A shard holds no more requests than it may.',
  drain: 'A shard that drains ends what it has.',
  expired: 'A shard does not begin to pool what nobody waits for any more.',
  'one-answer': 'A shard answers each request once at most.',
  'lent-twice': 'A buffer is lent to one at a time.',
  'written-after-release': 'Nobody writes to a buffer after its release.',
  leak: 'All buffers return, all timers end, and nothing is left in flight.',
  liveness: 'When faults are healed, requests are answered right again within bounded time.',
  counters: 'Counters agree with what the simulator saw.',
  exception: 'No callback throws.',
  'unhandled-rejection': 'No promise rejects while nobody listens.',
  'real-time': 'Nothing looks at another clock, or at chance, than it was given.',
} as const;

export type Invariant = keyof typeof INVARIANTS;

/** Something that must not be. */
export interface Violation {
  readonly invariant: Invariant;
  readonly message: string;
  /** Virtual ms. */
  readonly at: number;
}

/** Keeps the first violation, which ends the run. */
export class Violations {
  first: Violation | null = null;

  constructor(private readonly now: () => number) {}

  add(invariant: Invariant, message: string): void {
    this.first ??= { invariant, message, at: this.now() };
  }

  hold(invariant: Invariant, holds: boolean, message: () => string): void {
    if (!holds) this.add(invariant, message());
  }
}
