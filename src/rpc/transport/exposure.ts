import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import { TerabagError } from '../../errors.js';
import type { SecurityOptions } from './security.js';

const isLoopback = (address: string): boolean =>
  address.startsWith('127.') || address === '::1' || address.toLowerCase().startsWith('::ffff:127.');

/** Addresses that a server listens on: of a name, an interface, or as they are written; none of what is neither. */
async function addressesOf(host: string): Promise<readonly string[]> {
  if (isIP(host) !== 0) return [host];
  const ofInterface = networkInterfaces()[host];
  if (ofInterface !== undefined) return ofInterface.map(({ address }) => address);
  const found = await lookup(host, { all: true }).catch(() => []);
  return found.map(({ address }) => address);
}

/** Refuses to listen where others can connect, unless they need a key or it is wanted so (invalid_argument). */
export async function refuseExposed(endpoint: string, { key, insecure }: SecurityOptions): Promise<void> {
  const host = /^tcp:\/\/(?:\[([^\]]*)\]|([^:]*)):/
    .exec(endpoint)
    ?.slice(1)
    .find((part) => part !== undefined);
  if (host === undefined || key !== undefined || insecure === true) return;
  if (host !== '*' && (await addressesOf(host)).every(isLoopback)) return;
  throw new TerabagError(
    'invalid_argument',
    `whoever can connect there would be answered; give the shard a key and say whose keys it lets in (--key, --allow; terabag keygen), listen on 127.0.0.1 or ipc://, or say that it may be so (--insecure): ${endpoint}`,
    { field: 'endpoint', endpoint },
  );
}
