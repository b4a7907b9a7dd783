import { readdirSync, readFileSync } from 'node:fs';
import { TerabagError } from '../../errors.js';

/**
 * What a socket of ZeroMQ takes at most, with the context of the first one and the connections of a reconnect. libzmq aborts the process when it gets
 * none for its own signals (4.3.5, signaler.cpp).
 */
const NEEDED = 32;

/** Refuses to open a socket while few file descriptors are free (overloaded, details.reason EMFILE). Does nothing where the system does not tell. */
export function refuseFewDescriptors(endpoint: string): void {
  const free = freeDescriptors();
  if (free === null || free >= NEEDED) return;
  throw new TerabagError(
    'overloaded',
    `too few file descriptors are free for a socket (EMFILE); raise the limit (ulimit -n, systemd LimitNOFILE): ${endpoint}, free ${free}, needed ${NEEDED}`,
    { endpoint, reason: 'EMFILE', free, needed: NEEDED },
  );
}

function freeDescriptors(): number | null {
  try {
    const limit = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))?.[1];
    return limit === undefined ? null : Number(limit) - readdirSync('/proc/self/fd').length;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EMFILE' ? 0 : null;
  }
}
