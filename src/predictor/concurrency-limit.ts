/**
 * Of the time that a deadline leaves beside the service, what queueing may take on average; the rest is for what varies: garbage collections, other
 * processes. With 0.5, 2 to 8 % of the answers of `npm run bench -- overload --case small` were late on a busy machine, with 0.25 none, at the same rate.
 */
const QUEUE_SHARE = 0.25;
/** The least that the share falls to while requests are late: what is served comes in lumps then, and an average says little. */
const LEAST_QUEUE_SHARE = 0.05;
/** The share falls when more of a window than this was late, half of what P99 leaves out... */
const MOST_LATE = 0.005;
/** ... by this factor, and rises by this much in a window that was not late. */
const [SHARE_FALL, SHARE_RISE] = [0.8, 0.01];
/** A size that needs nearly all of its deadline leaves so much of it for the queue all the same: it must not hold up all others. */
const LEAST_ROOM = 0.2;
/** As many are let in as would end within this share of their deadlines if they were served one after the other, each in the latency of late... */
const SERIAL_SHARE = 0.5;
/** ... which is a mean of those of about so long, ms: where requests are few, a window may hold what was slow seconds ago. One counts for at least a part. */
const [RECENT_MS, LEAST_WEIGHT] = [50, 1 / 32];
/** The limit changes at most so often, ms... */
const WINDOW_MS = 20;
/** ... and after so many requests, or as many as may be in flight. */
const WINDOW_REQUESTS = 32;
/** Factors of one change: down at once, up while a queue that is too long would still be answered in time. */
const [LEAST_STEP, MOST_STEP] = [0.5, 1.25];
/** What was never in flight did not slow requests down: the limit falls from twice the most that was, though from no less than this. */
const SPARED = 64;
/** How long the least latency of a size is kept, at least, ms. */
const LEAST_LATENCY_MS = 10_000;
/** Requests that started beside less than this part of the limit did not wait for others. */
const UNQUEUED = 1 / 8;

/** A request that was answered, or ran into its deadline. Times are ms of one monotonic clock. */
export interface EndedRequest {
  readonly startedAt: number;
  readonly endedAt: number;
  /** From startedAt. */
  readonly deadlineMs: number;
  /** Requests whose sizes are within a factor of 2 are taken to be served alike: bytes, say; below 2^32. */
  readonly size: number;
  /** Others that were in flight when it started. */
  readonly beside: number;
}

/** Requests of one size. */
class SizeClass {
  #periodFrom: number;
  #least = Number.POSITIVE_INFINITY;
  #leastBefore = Number.POSITIVE_INFINITY;
  /** The period has a request that did not wait: it can stand for itself. */
  #unqueued = false;
  #seenAt: number;
  #deadlineMs: number;

  constructor({ endedAt, deadlineMs }: EndedRequest) {
    this.#periodFrom = this.#seenAt = endedAt;
    this.#deadlineMs = deadlineMs;
  }

  add({ startedAt, endedAt, deadlineMs, beside }: EndedRequest, limit: number): void {
    this.#seenAt = endedAt;
    this.#deadlineMs += (deadlineMs - this.#deadlineMs) / WINDOW_REQUESTS;
    const latencyMs = endedAt - startedAt;
    // Of one that was given up, what it would have taken is not known.
    if (latencyMs >= deadlineMs) return;
    if (endedAt - this.#periodFrom >= LEAST_LATENCY_MS && this.#unqueued) {
      this.#leastBefore = this.#least;
      this.#least = Number.POSITIVE_INFINITY;
      this.#periodFrom = endedAt;
      this.#unqueued = false;
    }
    this.#unqueued ||= beside <= Math.max(1, limit * UNQUEUED);
    this.#least = Math.min(this.#least, latencyMs);
  }

  /** Its least latency in the latest one or two periods, 0 when none is known. */
  get leastMs(): number {
    const least = Math.min(this.#least, this.#leastBefore);
    return least === Number.POSITIVE_INFINITY ? 0 : least;
  }

  /** The part of its deadlines that is left beside that. */
  get room(): number {
    return Math.max(1 - this.leastMs / this.#deadlineMs, LEAST_ROOM);
  }

  silent(now: number): boolean {
    return now - this.#seenAt > LEAST_LATENCY_MS;
  }
}

/** What ended since the limit changed, of requests that started since. */
interface Window {
  requests: number;
  late: number;
  latencyMs: number;
  deadlineMs: number;
  /** Of the least latencies of their sizes. */
  leastMs: number;
  mostInFlight: number;
  refused: boolean;
}

const emptyWindow = (): Window => ({ requests: 0, late: 0, latencyMs: 0, deadlineMs: 0, leastMs: 0, mostInFlight: 0, refused: false });

/**
 * How many requests may be in flight so that they are answered by their deadlines: an adaptive concurrency limit. Once a window,
 *
 *     limit *= (least latency + allowed queueing) / latency        (means over the window)
 *
 * the gradient of Envoy's adaptive concurrency filter (its documentation, "Gradient Controller") and of Netflix's concurrency-limits (Gradient2Limit).
 * By Little's law it is the step that makes the latency the one that is aimed at, once requests queue. Unlike there, the queue that is allowed
 * follows from the deadlines: as long as it may be, a queue costs no answer, and keeps who serves busy. So no latency has to be probed for, which
 * would be done by holding back requests. What is kept is therefore a rate, the limit over the latency aimed at, so that each request has the limit of
 * its own deadline. The least latency is kept for each size of requests apart: large ones are no sign of a queue, and the queue has to leave room for them.
 *
 * The limit falls whenever latencies are too long. It grows by the gradient while it is in the way, else by its root, so that what was learnt is
 * forgotten slowly. It starts with the most that may be: nothing is refused before there is a reason. However long latencies are beside the least, it
 * does not fall below what deadlines leave time for even without any concurrency (SERIAL_SHARE): where requests are few, latencies are a poor sign of a queue.
 */
export class ConcurrencyLimit {
  /** Requests a ms. */
  #rate = Number.POSITIVE_INFINITY;
  #queueShare = QUEUE_SHARE;
  #changedAt = Number.NEGATIVE_INFINITY;
  /** By the logarithm of their sizes. */
  readonly #sizes: (SizeClass | undefined)[] = [];
  #window = emptyWindow();
  /** Of the latest window. */
  #deadlineMs = 1;
  #leastMs = 0;
  /** Of late: a mean whose weights fall with time. */
  #latencyMs = 0;
  #endedAt = Number.NEGATIVE_INFINITY;
  /** The part of a deadline that any size leaves beside its service. */
  #room = 1;

  constructor(private readonly most: number) {}

  /** For the deadlines that are usual. */
  get limit(): number {
    return Math.floor(this.#limitOf(this.#deadlineMs));
  }

  /** Whether one more may start beside those in flight. When nothing is in flight it always may. */
  admits(inFlight: number, deadlineMs: number): boolean {
    const admitted = inFlight < Math.floor(this.#limitOf(deadlineMs));
    if (!admitted) this.#window.refused = true;
    else if (inFlight >= this.#window.mostInFlight) this.#window.mostInFlight = inFlight + 1;
    return admitted;
  }

  #limitOf(deadlineMs: number): number {
    return Math.min(this.most, Math.max(1, this.#rate * this.#aimedMs(deadlineMs), (SERIAL_SHARE * deadlineMs) / this.#latencyMs));
  }

  /** What latencies are to be. */
  #aimedMs(deadlineMs: number): number {
    return this.#leastMs + this.#queueShare * this.#room * deadlineMs;
  }

  ended(request: EndedRequest): void {
    const size = this.#sizeOf(request);
    const limit = this.#limitOf(request.deadlineMs);
    size.add(request, limit);
    const { startedAt, endedAt, deadlineMs } = request;
    const latencyMs = endedAt - startedAt;
    this.#latencyMs += Math.max(LEAST_WEIGHT, 1 - Math.exp((this.#endedAt - endedAt) / RECENT_MS)) * (latencyMs - this.#latencyMs);
    this.#endedAt = endedAt;
    // Others tell of the limit before.
    if (startedAt < this.#changedAt) return;
    const window = this.#window;
    window.requests++;
    if (latencyMs >= deadlineMs) window.late++;
    window.latencyMs += latencyMs;
    window.deadlineMs += deadlineMs;
    window.leastMs += Math.min(size.leastMs, latencyMs);
    if (window.requests >= Math.min(WINDOW_REQUESTS, limit) && endedAt - this.#changedAt >= WINDOW_MS) this.#change(endedAt);
  }

  #sizeOf(request: EndedRequest): SizeClass {
    const at = 32 - Math.clz32(request.size);
    const known = this.#sizes[at];
    if (known !== undefined) return known;
    const made = new SizeClass(request);
    this.#sizes[at] = made;
    return made;
  }

  #change(now: number): void {
    const { requests, late, latencyMs, deadlineMs, leastMs, mostInFlight, refused } = this.#window;
    this.#queueShare =
      late > MOST_LATE * requests
        ? Math.max(LEAST_QUEUE_SHARE, this.#queueShare * SHARE_FALL)
        : Math.min(QUEUE_SHARE, this.#queueShare + SHARE_RISE);
    this.#deadlineMs = deadlineMs / requests;
    this.#leastMs = leastMs / requests;
    this.#room = this.#leastRoom(now);
    const aimedMs = this.#aimedMs(this.#deadlineMs);
    const gradient = (aimedMs * requests) / latencyMs;
    const limit = Math.min(this.most, this.#rate * aimedMs);
    const isInTheWay = refused || 2 * mostInFlight >= limit;
    if (gradient < 1) this.#rate = (Math.min(limit, Math.max(SPARED, 2 * mostInFlight)) * Math.max(LEAST_STEP, gradient)) / aimedMs;
    else if (limit < this.most)
      this.#rate = isInTheWay ? this.#rate * Math.min(MOST_STEP, gradient) : this.#rate + Math.sqrt(limit) / aimedMs;
    this.#rate = Math.max(this.#rate, 1 / aimedMs);
    this.#changedAt = now;
    this.#window = emptyWindow();
  }

  /** Of all sizes that there were of late. */
  #leastRoom(now: number): number {
    let least = 1;
    for (const [at, size] of this.#sizes.entries()) {
      if (size === undefined) continue;
      if (size.silent(now)) this.#sizes[at] = undefined;
      else least = Math.min(least, size.room);
    }
    return least;
  }
}
