import { performance } from 'node:perf_hooks';

/** Waits for points in time. Times are milliseconds of one monotonic clock. */
export interface Pacer {
  now(): number;
  /**
   * Resolves at the time, or in the next turn of the event loop when it has passed. The result says how long after the time the loop lay
   * idle, ms: lateness that nobody but the pacer is to blame for.
   */
  until(at: number): Promise<number>;
  /** CPU that waiting has cost, us, as far as it can be told from that of the work beside it. */
  waitingCpuUs(): number;
}

/** A timer is up to a millisecond and the wake-up late; from here on the loop turns instead of sleeping. */
const SPIN_MS = 1.5;
/** A turn shorter than this held nothing but the waiting: an empty one takes 1 to 5 us, one with an answer several times as long. */
const EMPTY_TURN_MS = 0.02;

/**
 * Waits on the event loop of this process: a timer until shortly before the time, then turn after turn (setImmediate), in which answers are
 * handled as they come.
 *
 * Who is late? A turn that runs past the time was lengthened by what else ran in it: the predictor's own work, the collector, or another
 * process on this core. An application that embeds the predictor suffers the same, so that this is the system's latency. A timer that fires past the
 * time is the pacer's fault only as far as the loop was idle meanwhile, which perf_hooks' utilization tells.
 *
 * Turning takes a core for up to SPIN_MS and a millisecond before each send. Its CPU is taken to be the time of the turns in which nothing else ran.
 */
export class LoopPacer implements Pacer {
  #waitedMs = 0;

  now(): number {
    return performance.now();
  }

  async until(at: number): Promise<number> {
    let idleLate = 0;
    const startedAt = this.now();
    if (at - startedAt > SPIN_MS + 1) {
      const before = performance.eventLoopUtilization();
      await new Promise((resolve) => setTimeout(resolve, Math.floor(at - startedAt - SPIN_MS)));
      const now = this.now();
      if (now > at) {
        const busy = now - startedAt - performance.eventLoopUtilization(before).idle;
        idleLate = Math.max(0, now - at - Math.max(0, busy));
      }
    }
    await this.#turnUntil(at);
    return idleLate;
  }

  waitingCpuUs(): number {
    return this.#waitedMs * 1000;
  }

  /** At least one turn. */
  #turnUntil(at: number): Promise<void> {
    return new Promise((resolve) => {
      let before = this.now();
      const turn = (): void => {
        const now = this.now();
        if (now - before < EMPTY_TURN_MS) this.#waitedMs += now - before;
        before = now;
        if (now < at) setImmediate(turn);
        else resolve();
      };
      setImmediate(turn);
    });
  }
}
