/** So many failures in a row eject a replica: fewer come of one bad moment. */
const FAILURES_IN_ROW = 5;
/** So does this share of failures among the attempts of a window, of at least so many. */
const FAILURE_RATE = 0.5;
const RATE_ATTEMPTS = 20;
const RATE_WINDOW_MS = 10_000;
/** The first ejection; each further one is twice as long. */
const BACK_OFF_MS = 500;
const MOST_BACK_OFF_MS = 30_000;
/** A replica that was sound for so long starts with the first again. */
const FORGIVEN_MS = 30_000;

/**
 * Whether a replica that answers heartbeats deserves requests: one whose attempts fail is ejected, first for a moment, then for longer and longer. When
 * the time is over, a single request is the probe that tells whether it comes back.
 */
export class Ejection {
  #state: 'sound' | 'ejected' | 'probed' = 'sound';
  #until = 0;
  #backOffMs = BACK_OFF_MS;
  #soundSince: number;
  /** When it was last ejected or probed: what began before tells nothing of now. */
  #changedAt = Number.NEGATIVE_INFINITY;
  #failuresInRow = 0;
  #windowAt: number;
  #attempts = 0;
  #failures = 0;

  constructor(now: number) {
    this.#soundSince = this.#windowAt = now;
  }

  get sound(): boolean {
    return this.#state === 'sound';
  }

  /** Whether a request that tells whether it comes back is out. */
  get isProbed(): boolean {
    return this.#state === 'probed';
  }

  /** Whether the next request may be its probe. */
  awaitsProbe(now: number): boolean {
    return this.#state === 'ejected' && now >= this.#until;
  }

  probe(now: number): void {
    this.#state = 'probed';
    this.#changedAt = now;
  }

  /** The probe ended without telling anything: the next may. */
  probeWithdrawn(startedAt: number): void {
    if (this.#state === 'probed' && startedAt >= this.#changedAt) this.#state = 'ejected';
  }

  /** An attempt that began then has succeeded. */
  succeeded(now: number, startedAt = now): void {
    if (startedAt < this.#changedAt) return;
    this.#count(now, 0);
    this.#failuresInRow = 0;
    if (this.#state !== 'probed') return;
    this.#state = 'sound';
    this.#soundSince = now;
  }

  /** An attempt that began then has failed; true when it is ejected for that. */
  failed(now: number, startedAt = now): boolean {
    if (startedAt < this.#changedAt) return false;
    this.#count(now, 1);
    this.#failuresInRow++;
    const tooMany = this.#attempts >= RATE_ATTEMPTS && this.#failures >= FAILURE_RATE * this.#attempts;
    const eject = this.#state === 'probed' || (this.#state === 'sound' && (tooMany || this.#failuresInRow >= FAILURES_IN_ROW));
    if (eject) this.#eject(now);
    return eject;
  }

  #eject(now: number): void {
    if (this.#state === 'sound' && now - this.#soundSince >= FORGIVEN_MS) this.#backOffMs = BACK_OFF_MS;
    this.#state = 'ejected';
    this.#changedAt = now;
    this.#until = now + this.#backOffMs;
    this.#backOffMs = Math.min(MOST_BACK_OFF_MS, 2 * this.#backOffMs);
    this.#failuresInRow = 0;
    this.#attempts = this.#failures = 0;
  }

  #count(now: number, failures: 0 | 1): void {
    if (now - this.#windowAt >= RATE_WINDOW_MS) {
      this.#windowAt = now;
      this.#attempts = this.#failures = 0;
    }
    this.#attempts++;
    this.#failures += failures;
  }
}
