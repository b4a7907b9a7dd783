import { setMaxListeners } from 'node:events';
import type { DensePart, DenseWorkspace } from '../engine/dense-part.js';
import { Scratch } from './scratch.js';

/** What one batch of a request works with. */
export class BatchMemory {
  readonly workspace: DenseWorkspace;
  #cancel: AbortController | null = null;

  constructor(
    net: DensePart,
    readonly scratch: Scratch,
  ) {
    this.workspace = net.createWorkspace();
  }

  /** Cancels the RPCs of the batch that it works for; used again by the next unless it was aborted, since signals are dear. */
  get cancel(): AbortController {
    if (this.#cancel === null || this.#cancel.signal.aborted) {
      this.#cancel = new AbortController();
      // One an RPC that is in flight.
      setMaxListeners(0, this.#cancel.signal);
    }
    return this.#cancel;
  }
}

/** Memory is let go when it is this many times what was asked for in a period... */
const WASTEFUL = 4;
/** ... and at least this much. */
const WORTH_DROPPING_BYTES = 1 << 20;

/** What the dense part reads, by its key in the scratch. */
const INPUTS: ReadonlySet<string> = new Set(['dense', 'answer', 'pooled', 'expanded', 'sequenceLengths']);

const scratchOf = ({ sharesInputs }: DensePart): Scratch => (sharesInputs ? new Scratch(INPUTS) : new Scratch());

/** What one request works with, lent to it from its start to its end. */
export class RequestMemory {
  readonly scratch: Scratch;
  readonly #batches: BatchMemory[] = [];

  constructor(private readonly net: DensePart) {
    this.scratch = scratchOf(net);
  }

  /** What batch number b works with; the first works in the scratch of the request. */
  batch(b: number): BatchMemory {
    while (this.#batches.length <= b)
      this.#batches.push(new BatchMemory(this.net, this.#batches.length === 0 ? this.scratch : scratchOf(this.net)));
    return this.#batches[b] as BatchMemory;
  }

  /** Whether it is worth keeping for what it was used for since the last call. */
  endPeriod(): boolean {
    let [held, asked] = [0, 0];
    for (const scratch of new Set([this.scratch, ...this.#batches.map((batch) => batch.scratch)])) {
      const period = scratch.endPeriod();
      held += period.held;
      asked += period.asked;
    }
    return held < WORTH_DROPPING_BYTES || held < WASTEFUL * asked;
  }
}
