import { readFileSync } from 'node:fs';

/** Memory of this process that is of no file, also where it was paged out; 0 where the system does not tell. */
export function anonymousBytes(): number {
  try {
    const kib = [...readFileSync('/proc/self/status', 'latin1').matchAll(/^(?:RssAnon|VmSwap):\s+(\d+) kB$/gm)];
    return kib.reduce((sum, [, value]) => sum + 1024 * Number(value), 0);
  } catch {
    return 0;
  }
}
