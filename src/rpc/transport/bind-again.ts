import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { addressOf } from './reasons.js';

const AGAIN_MS = 5;
const LONGEST_MS = 2000;

/**
 * Binds an endpoint that was unbound a moment ago: libzmq lets go of it in a thread of its own, and removes the file of a Unix socket then, whoever
 * has made it.
 */
export async function bindAgain(endpoint: string, bind: () => unknown): Promise<void> {
  const address = addressOf(endpoint);
  const isLeft = (): boolean => address !== null && 'path' in address && existsSync(address.path);
  const until = performance.now() + LONGEST_MS;
  for (;;) {
    try {
      if (!isLeft() || performance.now() > until) {
        await bind();
        return;
      }
    } catch (error) {
      if (performance.now() > until) throw error;
    }
    await sleep(AGAIN_MS);
  }
}
