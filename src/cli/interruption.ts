/** Exit code of a command that was interrupted and has printed what it had: what shells say of a program that Ctrl-C ended. */
export const INTERRUPTED = 130;

/** Aborts at the first SIGINT or SIGTERM, so that the command can end in order; the same signal again ends the process at once. */
export function interruption(): AbortSignal {
  const interrupt = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => interrupt.abort(signal));
  return interrupt.signal;
}
