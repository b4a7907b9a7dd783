import type { ConcurrencyLimit } from '../../src/predictor/concurrency-limit.js';
import { random } from './small-model.js';

export interface QueueLoad {
  readonly limit: Pick<ConcurrencyLimit, 'admits' | 'ended'>;
  /** Poisson arrivals a ms, at the time. */
  readonly rate: (now: number) => number;
  readonly durationMs: number;
  readonly servers: number;
  /** ms of one server, at the time; share is uniform in [0, 1), the request's own. */
  readonly serviceMs: (now: number, share: number) => number;
  readonly sizeOf?: (share: number) => number;
  readonly deadlineMs: (share: number) => number;
  /** On the way to a server and back. */
  readonly networkMs?: number;
  readonly seed?: number;
}

export interface QueuedRequest {
  readonly arrivedAt: number;
  readonly share: number;
  outcome: 'refused' | 'late' | 'answered';
  latencyMs: number;
}

interface Waiting extends QueuedRequest {
  readonly beside: number;
  over: boolean;
}

/** Events in the order of their times, of equal times in that in which they were added: a binary heap. */
class Events {
  readonly #heap: { readonly at: number; readonly order: number; readonly happen: () => void }[] = [];
  #order = 0;

  at(at: number, happen: () => void): void {
    const heap = this.#heap;
    heap.push({ at, order: this.#order++, happen });
    for (let child = heap.length - 1; child > 0; ) {
      const parent = (child - 1) >> 1;
      if (!this.#before(child, parent)) return;
      this.#swap(child, parent);
      child = parent;
    }
  }

  next(): { readonly at: number; readonly happen: () => void } | undefined {
    const heap = this.#heap;
    if (heap.length === 0) return undefined;
    this.#swap(0, heap.length - 1);
    const first = heap.pop();
    for (let parent = 0; ; ) {
      let least = parent;
      for (const child of [2 * parent + 1, 2 * parent + 2]) if (child < heap.length && this.#before(child, least)) least = child;
      if (least === parent) return first;
      this.#swap(parent, least);
      parent = least;
    }
  }

  #before(a: number, b: number): boolean {
    const [one, two] = [this.#heap[a], this.#heap[b]] as { at: number; order: number }[];
    return one!.at < two!.at || (one!.at === two!.at && one!.order < two!.order);
  }

  #swap(a: number, b: number): void {
    [this.#heap[a], this.#heap[b]] = [this.#heap[b]!, this.#heap[a]!];
  }
}

/** A queue before some servers, first come first served, which drop what is past its deadline: what became of each request. */
export function simulateQueue(load: QueueLoad): QueuedRequest[] {
  const { limit, servers, networkMs = 0, sizeOf = () => 1 } = load;
  const uniform = random(load.seed ?? 1);
  const events = new Events();
  const requests: QueuedRequest[] = [];
  const queue: Waiting[] = [];
  let [now, inFlight, free, taken] = [0, 0, servers, 0];

  const end = (request: Waiting): void => {
    if (request.over) return;
    request.over = true;
    inFlight--;
    const { arrivedAt, share, beside } = request;
    const deadlineMs = load.deadlineMs(share);
    request.latencyMs = now - arrivedAt;
    request.outcome = request.latencyMs < deadlineMs ? 'answered' : 'late';
    limit.ended({ startedAt: arrivedAt, endedAt: now, deadlineMs, size: sizeOf(share), beside });
  };
  const serve = (): void => {
    while (free > 0 && taken < queue.length) {
      const request = queue[taken++] as Waiting;
      if (request.over) continue;
      free--;
      events.at(now + load.serviceMs(now, request.share), () => {
        free++;
        events.at(now + networkMs / 2, () => end(request));
        serve();
      });
    }
  };
  const arrive = (): void => {
    if (now < load.durationMs) arriveLater();
    const share = uniform();
    const deadlineMs = load.deadlineMs(share);
    const request: Waiting = { arrivedAt: now, share, beside: inFlight, over: false, outcome: 'refused', latencyMs: 0 };
    requests.push(request);
    if (!limit.admits(inFlight, deadlineMs)) return;
    inFlight++;
    events.at(now + deadlineMs, () => end(request));
    events.at(now + networkMs / 2, () => {
      queue.push(request);
      serve();
    });
  };
  const arriveLater = (): void => events.at(now - Math.log(1 - uniform()) / load.rate(now), arrive);

  arriveLater();
  for (let event = events.next(); event !== undefined; event = events.next()) {
    now = event.at;
    event.happen();
  }
  return requests;
}

/** Of requests that arrived in an interval: answered a ms, shares of all that were refused, and of those let in that were late. */
export function outcomesOf(requests: readonly QueuedRequest[], fromMs: number, toMs: number) {
  const own = requests.filter(({ arrivedAt }) => arrivedAt >= fromMs && arrivedAt < toMs);
  const count = (outcome: QueuedRequest['outcome']): number => own.filter((request) => request.outcome === outcome).length;
  const [answered, late] = [count('answered'), count('late')];
  return {
    requests: own.length,
    goodput: answered / (toMs - fromMs),
    refused: count('refused') / own.length,
    late: answered + late === 0 ? 0 : late / (answered + late),
    longestMs: own.reduce((most, { latencyMs }) => Math.max(most, latencyMs), 0),
  };
}
