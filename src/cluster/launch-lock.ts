import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer, type Server } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { TerabagError } from '../errors.js';
import type { Plan } from '../plan/file/plan.js';
import { addressOf, systemReason } from '../rpc/transport/reasons.js';

/** A holder that is stopped says nothing. */
const ANSWER_MS = 500;
/** Between two looks at an endpoint that is in use. */
const LOOK_MS = 50;

/**
 * Held by the process that launches shards at these endpoints, or writes a file of them, until it ends, however it does: an abstract socket of Linux,
 * which is one of the network namespace, as ports are. Another is refused (invalid_argument) before it reads a table. Of no effect on other systems.
 */
export class LaunchLock {
  private constructor(private readonly server: Server | null) {}

  static async take(places: readonly string[]): Promise<LaunchLock> {
    if (process.platform !== 'linux' || places.length === 0) return new LaunchLock(null);
    const path = lockPath(places);
    // Who is refused is told by whom.
    const server = createServer((peer) => peer.on('error', () => undefined).end(`${process.pid}\n`));
    server.listen(path).unref();
    try {
      await once(server, 'listening');
    } catch (error) {
      throw systemReason(error) === 'EADDRINUSE' ? refused(places, await holderOf(path)) : TerabagError.from(error);
    }
    return new LaunchLock(server);
  }

  release(): void {
    this.server?.close();
  }
}

function refused(places: readonly string[], holder: string | null): TerabagError {
  const who = holder === null ? 'another process' : `process ${holder}`;
  const what = places.length > 1 ? `${places[0]} and ${places.length - 1} more` : `${places[0]}`;
  return new TerabagError('invalid_argument', `${who} watches the same shards already: ${what}`, {
    reason: 'EADDRINUSE',
    ...(holder !== null && { pid: Number(holder) }),
  });
}

const lockPath = (places: readonly string[]): string =>
  `\0terabag-launch-${createHash('sha256').update(JSON.stringify(places.toSorted())).digest('hex').slice(0, 32)}`;

/** The process id that a holder tells. */
async function holderOf(path: string): Promise<string | null> {
  const socket = connect(path);
  socket.setTimeout(ANSWER_MS, () => socket.destroy());
  let told = '';
  try {
    for await (const piece of socket) told += String(piece);
  } catch {
    return null;
  }
  return /^\d+\n$/.test(told) ? told.trim() : null;
}

export const endpointsOf = ({ shards }: Plan): string[] => shards.flatMap(({ endpoints }) => endpoints);

/**
 * Resolves when nobody listens at any of the TCP endpoints, which shards of a launcher that was killed do until they have drained. Refuses
 * (invalid_argument) one that is in use after ms, before a table is read for it. The signal ends the wait (aborted).
 */
export async function whenFree(endpoints: readonly string[], ms: number, signal?: AbortSignal): Promise<void> {
  const until = performance.now() + ms;
  for (const endpoint of endpoints) {
    while ((await listens(endpoint)) && performance.now() < until) {
      if (signal?.aborted) throw new TerabagError('aborted', 'the launch was aborted', {}, { cause: signal.reason });
      await sleep(LOOK_MS);
    }
    if (await listens(endpoint)) {
      throw new TerabagError('invalid_argument', `another process listens at the endpoint (EADDRINUSE): ${endpoint}`, {
        endpoint,
        reason: 'EADDRINUSE',
      });
    }
  }
}

/** Whether somebody does, as far as a bind tells; any other refusal is the shard's to report. */
async function listens(endpoint: string): Promise<boolean> {
  const address = addressOf(endpoint);
  if (address === null || !('host' in address)) return false;
  const server = createServer();
  try {
    server.listen({ ...address, exclusive: true });
    await once(server, 'listening');
    return false;
  } catch (error) {
    return systemReason(error) === 'EADDRINUSE';
  } finally {
    server.close();
  }
}
