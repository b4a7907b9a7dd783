import { setImmediate as turnOfLoop, setTimeout as wait } from 'node:timers/promises';

/**
 * Whether a promise settles before a timer of so many ms that starts with it. What is late to one is late to both, since they share an event loop: a
 * busy machine, which makes any clock seem too fast, changes nothing.
 */
export async function settlesWithin(ms: number, promise: Promise<unknown>): Promise<boolean> {
  const over = new AbortController();
  const settled = promise.then(
    () => true,
    () => true,
  );
  const tooLate = async (): Promise<boolean> => {
    await wait(ms, undefined, { signal: over.signal });
    // A stalled loop fires all that is due at once; what was due earlier may take a turn or two to come through.
    await turnOfLoop();
    await turnOfLoop();
    return false;
  };
  const late = tooLate().catch(() => false);
  return Promise.race([settled, late]).finally(() => over.abort());
}
