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
const CALIBRATION_TURNS = 2000;

/**
 * Waits on the event loop of this process: a timer until shortly before the time, then turn after turn (setImmediate), in which answers are
 * handled as they come.
 *
 * Who is late? A turn that runs past the time was lengthened by what else ran in it: the predictor's own work, the collector, or another
 * process on this core. An application that embeds the predictor suffers the same, so that this is the system's latency. A timer that fires past the
 * time is the pacer's fault only as far as the loop was idle meanwhile, which perf_hooks' utilization tells.
 *
 * Turning takes a core for up to SPIN_MS before each send. Its CPU is the number of turns times that of an empty one, measured once.
 */
export class LoopPacer implements Pacer {
  #turns = 0;
  #emptyTurnUs = 0;

  static async create(): Promise<LoopPacer> {
    const pacer = new LoopPacer();
    const before = process.cpuUsage();
    await pacer.#turnWhile(() => pacer.#turns < CALIBRATION_TURNS);
    const { user, system } = process.cpuUsage(before);
    pacer.#emptyTurnUs = (user + system) / pacer.#turns;
    pacer.#turns = 0;
    return pacer;
  }

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
    await this.#turnWhile(() => this.now() < at);
    return idleLate;
  }

  waitingCpuUs(): number {
    return this.#turns * this.#emptyTurnUs;
  }

  /** At least one turn. */
  #turnWhile(wanted: () => boolean): Promise<void> {
    return new Promise((resolve) => {
      const turn = (): void => {
        this.#turns++;
        if (wanted()) setImmediate(turn);
        else resolve();
      };
      setImmediate(turn);
    });
  }
}
