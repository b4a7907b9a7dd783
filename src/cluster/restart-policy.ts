const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;
/** A process that ran for longer was sound: its crash is not one in a row. */
const HEALTHY_MS = 10_000;

/** Exponential back-off: the pause before a restart doubles with each crash in a row. */
export class RestartPolicy {
  #nextPauseMs = FIRST_PAUSE_MS;

  /** The pause before the restart of a process that ran for so long. */
  pauseMs(ranMs: number): number {
    const pauseMs = ranMs > HEALTHY_MS ? FIRST_PAUSE_MS : this.#nextPauseMs;
    this.#nextPauseMs = Math.min(LONGEST_PAUSE_MS, pauseMs * 2);
    return pauseMs;
  }
}
