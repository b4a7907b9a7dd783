import { lookup } from 'node:dns/promises';
import { connect } from 'node:net';
import { getSystemErrorName } from 'node:util';

const PROBE_MS = 1000;

/** The system's name of an error of a socket (EADDRINUSE, EMFILE ...); null of others. */
export function systemReason(error: unknown): string | null {
  const { code, errno } = error as { readonly code?: unknown; readonly errno?: unknown };
  if (typeof code === 'string' && /^E[A-Z0-9]+$/.test(code)) return code;
  if (typeof errno !== 'number' || !Number.isInteger(errno) || errno === 0) return null;
  try {
    return getSystemErrorName(-Math.abs(errno));
  } catch {
    // A number of libzmq's own.
    return null;
  }
}

/** What an endpoint of ZeroMQ names: host and port, or the path of a Unix socket; null of others. */
export function addressOf(endpoint: string): { readonly host: string; readonly port: number } | { readonly path: string } | null {
  const ipc = /^ipc:\/\/([^@*].*)$/.exec(endpoint);
  if (ipc?.[1] !== undefined) return { path: ipc[1] };
  const tcp = /^tcp:\/\/(?:\[([^\]]+)\]|([^:]+)):(\d+)$/.exec(endpoint);
  const host = tcp?.[1] ?? tcp?.[2];
  return host === undefined || host === '*' ? null : { host, port: Number(tcp?.[3]) };
}

/** Tries whether somebody listens: null when so, or the system's reason. libzmq tells only that an attempt failed. */
export async function whyUnreachable(endpoint: string): Promise<string | null> {
  const address = addressOf(endpoint);
  if (address === null) return null;
  try {
    if ('host' in address) await lookup(address.host);
  } catch (error) {
    return systemReason(error);
  }
  return new Promise((resolve) => {
    const socket = connect(address);
    const end = (reason: string | null): void => {
      socket.destroy();
      resolve(reason);
    };
    socket.unref();
    socket.setTimeout(PROBE_MS, () => end('ETIMEDOUT'));
    socket.once('connect', () => end(null));
    socket.once('error', (error) => end(systemReason(error)));
  });
}
