import { readdirSync, readFileSync } from 'node:fs';
import { TerabagError } from '../../errors.js';
import type { Listening } from './transport.js';

/**
 * What a socket of ZeroMQ takes at most, with the context of the first one and the connections of a reconnect. libzmq aborts the process when it gets
 * none for its own signals (4.3.5, signaler.cpp).
 */
const NEEDED = 32;

/** Refuses to open a socket while few file descriptors are free (overloaded, details.reason EMFILE). Does nothing where the system does not tell. */
export function refuseFewDescriptors(endpoint: string): void {
  const { free } = descriptors();
  if (free >= NEEDED) return;
  throw new TerabagError(
    'overloaded',
    `too few file descriptors are free for a socket (EMFILE); raise the limit (ulimit -n, systemd LimitNOFILE): ${endpoint}, free ${free}, needed ${NEEDED}`,
    { endpoint, reason: 'EMFILE', free, needed: NEEDED },
  );
}

interface Descriptors {
  /** Infinity where the system does not tell. */
  readonly free: number;
  readonly limit: number;
}

const UNKNOWN: Descriptors = { free: Number.POSITIVE_INFINITY, limit: Number.POSITIVE_INFINITY };

function descriptors(): Descriptors {
  try {
    const limit = Number(/^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))?.[1]);
    return Number.isNaN(limit) ? UNKNOWN : { free: limit - readdirSync('/proc/self/fd').length, limit };
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EMFILE' ? { ...UNKNOWN, free: 0 } : UNKNOWN;
  }
}

/** Connections come faster than the event loop hears of them: a share of the limit is left for those, and of a high limit no more than this. */
const RESERVED_SHARE = 1 / 4;
const MOST_RESERVED = 1024;
const AGAIN_MS = 500;

/**
 * Stops a server of an ipc endpoint from accepting connections while few file descriptors are free, and lets it accept again when there are more:
 * libzmq aborts the process when accept fails for want of one (4.3.5, ipc_listener.cpp; its listener for TCP goes on).
 */
export class AcceptGuard {
  #again: NodeJS.Timeout | null = null;
  #closed = false;

  constructor(
    private readonly socket: Pick<Listening, 'endpoint' | 'unbind' | 'bindAgain'>,
    /** Throws when somebody else has taken the endpoint. */
    private readonly checkFree: () => Promise<void>,
    private readonly onWarning: (message: string) => void,
  ) {}

  /** After each connection. */
  async accepted(): Promise<void> {
    const { free, limit } = descriptors();
    if (this.#closed || this.#again !== null || free >= reserved(limit)) return;
    this.#later();
    await this.socket.unbind().catch((error: Error) => this.onWarning(`cannot stop listening: ${error.message}`));
    this.onWarning(
      `no further connection is accepted while so few file descriptors are free (EMFILE); raise the limit (ulimit -n, systemd LimitNOFILE): ${this.socket.endpoint}, free ${free}, limit ${limit}`,
    );
  }

  close(): void {
    this.#closed = true;
    if (this.#again !== null) clearTimeout(this.#again);
  }

  #later(): void {
    this.#again = setTimeout(() => void this.#accept(), AGAIN_MS).unref();
  }

  async #accept(): Promise<void> {
    try {
      const { free, limit } = descriptors();
      if (free <= reserved(limit)) return this.#later();
      await this.checkFree();
      if (this.#closed) return;
      await this.socket.bindAgain();
      this.#again = null;
    } catch (error) {
      this.onWarning(`cannot listen again: ${(error as Error).message}`);
      if (!this.#closed) this.#later();
    }
  }
}

const reserved = (limit: number): number => Math.min(MOST_RESERVED, Math.max(NEEDED, Math.floor(limit * RESERVED_SHARE)));
