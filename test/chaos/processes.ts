import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

export const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    // A zombie has ended, and waits for its parent.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
};

/** Does nothing to one that has ended. */
export function signalTo(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** Resident bytes of a process; 0 of one that has ended. */
export function rssOf(pid: number): number {
  try {
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) * 1024;
  } catch {
    return 0;
  }
}

/** Open file descriptors of a process; 0 of one that has ended. */
export function descriptorsOf(pid: number): number {
  try {
    return readdirSync(`/proc/${pid}/fd`).length;
  } catch {
    return 0;
  }
}

/** Whether it holds within so many ms. */
export async function within(ms: number, holds: () => boolean | Promise<boolean>, pauseMs = 5): Promise<boolean> {
  for (const until = performance.now() + ms; ; await sleep(pauseMs)) {
    if (await holds()) return true;
    if (performance.now() > until) return false;
  }
}

/** Stops and continues a process over and over, so that it runs for a share of the time only; the result ends that, and leaves it running. */
export function dutyCycle(pid: number, { runMs, stopMs }: { readonly runMs: number; readonly stopMs: number }): () => void {
  let timer: NodeJS.Timeout;
  const stop = (): void => {
    signalTo(pid, 'SIGSTOP');
    timer = setTimeout(go, stopMs);
  };
  const go = (): void => {
    signalTo(pid, 'SIGCONT');
    timer = setTimeout(stop, runMs);
  };
  stop();
  return () => {
    clearTimeout(timer);
    signalTo(pid, 'SIGCONT');
  };
}
