import { constants, PerformanceObserver } from 'node:perf_hooks';

/** Counts collections of the whole heap in this process from now on. */
export class FullCollections {
  #count = 0;
  readonly #observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      const { detail } = entry as unknown as { readonly detail: { readonly kind: number } };
      if (detail.kind === constants.NODE_PERFORMANCE_GC_MAJOR) this.#count++;
    }
  });

  constructor() {
    this.#observer.observe({ entryTypes: ['gc'] });
  }

  async end(): Promise<number> {
    // Entries come with the event loop's next turn.
    await new Promise((resolve) => setImmediate(resolve));
    this.#observer.disconnect();
    return this.#count;
  }
}
