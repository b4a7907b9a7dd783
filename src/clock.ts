/** What the rpc rooms know of time; tests put a clock of their own in its place. */
export interface Clock {
  /** Monotonic ms, as performance.now(). */
  now(): number;
  /** The timer keeps the process alive unless `background`. Returns what cancels it, once or more often. */
  after(ms: number, call: () => void, background?: 'background'): () => void;
  /** Until cancelled; does not keep the process alive. */
  every(ms: number, call: () => void): () => void;
  /** When the event loop has polled its sockets. */
  afterPolling(call: () => void): void;
}

export const systemClock: Clock = {
  now: () => performance.now(),
  after(ms, call, background) {
    const timer = setTimeout(call, ms);
    if (background !== undefined) timer.unref();
    return () => clearTimeout(timer);
  },
  every(ms, call) {
    const timer = setInterval(call, ms).unref();
    return () => clearInterval(timer);
  },
  afterPolling(call) {
    setImmediate(call);
  },
};
