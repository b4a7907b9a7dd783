import { running } from './process.js';
import type { SeededRandom } from './random.js';
import type { Violations } from './violations.js';

/** Runs what has a real clock of its own and is no part of what is simulated: a pool that lets unused memory go. */
export function outside<T>(call: () => T): T {
  const { process } = running;
  running.process = null;
  try {
    return call();
  } finally {
    running.process = process;
  }
}

/** Pools of a predictor let unused memory go by a timer of Node, which is no part of what is simulated. Until the function that it returns is called. */
export function keepPoolsOutside(): () => void {
  const { setInterval: often } = globalThis;
  globalThis.setInterval = ((call: () => void, ms: number) => outside(() => often(call, ms))) as typeof often;
  return () => {
    globalThis.setInterval = often;
  };
}

/**
 * While a simulated process runs, nothing may look at a real clock or at real chance. Math.random gives the seed's, so that a run is the same again
 * nevertheless. Until the function that it returns is called.
 */
export function guardRealTime(violations: Violations, random: SeededRandom): () => void {
  const [chance, date, now] = [Math.random, Date.now, performance.now];
  const { setTimeout: later, setInterval: often, setImmediate: next } = globalThis;
  const guard = (name: string): void => {
    if (running.process !== null)
      violations.add('real-time', `${running.process.name} calls ${name}${new Error().stack?.split('\n')[3] ?? ''}`);
  };
  Math.random = () => {
    guard('Math.random');
    return random.next();
  };
  Date.now = () => {
    guard('Date.now');
    return date();
  };
  performance.now = () => {
    guard('performance.now');
    return now.call(performance);
  };
  globalThis.setTimeout = ((...given: Parameters<typeof later>) => {
    guard('setTimeout');
    return later(...given);
  }) as typeof later;
  globalThis.setInterval = ((...given: Parameters<typeof often>) => {
    guard('setInterval');
    return often(...given);
  }) as typeof often;
  globalThis.setImmediate = ((...given: Parameters<typeof next>) => {
    guard('setImmediate');
    return next(...given);
  }) as typeof next;
  return () => {
    [Math.random, Date.now, performance.now] = [chance, date, now];
    Object.assign(globalThis, { setTimeout: later, setInterval: often, setImmediate: next });
  };
}
