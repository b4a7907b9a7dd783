import type { EndpointSource } from '../../src/rpc/replicas/endpoint-source.js';
import type { SimulatedProcess } from './process.js';
import type { SeededRandom } from './random.js';

/** Until a change of a name or a file is noticed; at once when somebody asks. */
const NOTICED_MS = 400;
const LOOK_UP_MS = 20;

/** Addresses that change, and are known a little later. */
export class SimulatedEndpoints implements EndpointSource {
  #known: readonly string[];
  #changed: (() => void) | null = null;
  #lookingUp = false;
  closed = false;

  constructor(
    private readonly process: SimulatedProcess,
    private readonly random: SeededRandom,
    /** As they are now, whoever knows. */
    private readonly current: () => readonly string[],
  ) {
    this.#known = [...current()];
  }

  get addresses(): readonly string[] {
    return this.#known;
  }

  watch(changed: () => void): void {
    this.#changed = changed;
  }

  refresh(): void {
    if (this.#lookingUp) return;
    this.#lookingUp = true;
    this.#lookUpIn(this.random.between(0.1, LOOK_UP_MS));
  }

  /** They have changed: it is noticed at some time. */
  moved(): void {
    this.#lookUpIn(this.random.between(0.1, NOTICED_MS));
  }

  close(): void {
    this.closed = true;
  }

  #lookUpIn(ms: number): void {
    this.process.at(this.process.time + ms, 'sockets', () => {
      this.#lookingUp = false;
      const current = [...this.current()];
      if (this.closed || current.join() === this.#known.join()) return;
      this.#known = current;
      this.#changed?.();
    });
  }
}
