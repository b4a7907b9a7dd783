const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;
/** A process that ran for longer was sound: its crash is not one in a row. */
const HEALTHY_MS = 10_000;

/** Exponential back-off: none before the first restart, since a sole replica is missed, and then pauses that double with each crash in a row. */
export class RestartPolicy {
  #nextPauseMs = 0;

  /** The pause before the restart of a process that ran for so long. */
  pauseMs(ranMs: number): number {
    const pauseMs = ranMs > HEALTHY_MS ? 0 : this.#nextPauseMs;
    this.#nextPauseMs = Math.min(LONGEST_PAUSE_MS, pauseMs * 2 || FIRST_PAUSE_MS);
    return pauseMs;
  }
}
