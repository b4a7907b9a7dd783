import { lookup } from 'node:dns/promises';
import { Socket } from 'node:net';
import { getSystemErrorName } from 'node:util';

const PROBE_MS = 1000;
const NAME = /^E[A-Z0-9]+$/;
const MAX_PORT = 65_535;

/** The system's name of an error of a socket (EADDRINUSE, EMFILE ...); null of others. */
export function systemReason(error: unknown): string | null {
  const { code, errno } = error as { readonly code?: unknown; readonly errno?: unknown };
  if (typeof code === 'string' && NAME.test(code)) return code;
  if (typeof errno !== 'number' || !Number.isInteger(errno) || errno === 0) return null;
  try {
    const name = getSystemErrorName(-Math.abs(errno));
    // libzmq has numbers of its own.
    return NAME.test(name) ? name : null;
  } catch {
    return null;
  }
}

/** What an endpoint of ZeroMQ names: host and port, or the path of a Unix socket; null of others. */
export function addressOf(endpoint: string): { readonly host: string; readonly port: number } | { readonly path: string } | null {
  const ipc = /^ipc:\/\/([^@*].*)$/.exec(endpoint);
  if (ipc?.[1] !== undefined) return { path: ipc[1] };
  const tcp = /^tcp:\/\/(?:\[([^\]]+)\]|([^:]+)):(\d+)$/.exec(endpoint);
  const host = tcp?.[1] ?? tcp?.[2];
  const port = Number(tcp?.[3]);
  return host === undefined || host === '*' || port > MAX_PORT ? null : { host, port };
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
    const socket = new Socket();
    const end = (reason: string | null): void => {
      socket.destroy();
      resolve(reason);
    };
    socket.unref();
    socket.setTimeout(PROBE_MS, () => end('ETIMEDOUT'));
    socket.once('connect', () => end(null));
    socket.once('error', (error) => end(systemReason(error)));
    try {
      socket.connect(address);
    } catch {
      // Of what Node does not take for an address.
      end('EINVAL');
    }
  });
}

/** Events of libzmq's monitor, of handshakes that failed: ended without a word, not of the protocol or not both with keys, refused by the other side. */
const HANDSHAKE_ENDED = 0x0800;
const HANDSHAKE_PROTOCOL = 0x2000;
const HANDSHAKE_REFUSED = 0x4000;

/** Why somebody who listens did not let us in, in the system's words for keys; null when he did. */
export function refusalOf(failure: number, encrypted: boolean): string | null {
  if (failure === HANDSHAKE_REFUSED) return 'EACCES';
  if (failure === HANDSHAKE_PROTOCOL) return 'ENOKEY';
  return failure === HANDSHAKE_ENDED && encrypted ? 'EKEYREJECTED' : null;
}
