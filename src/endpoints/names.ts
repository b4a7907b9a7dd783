import * as dns from 'node:dns/promises';
import { TerabagError } from '../errors.js';

/** How names become addresses. What is thrown has the system's reason as its code. */
export interface Names {
  /** IP addresses of a host. */
  addresses(host: string): Promise<readonly string[]>;
  /** The SRV records of a name. */
  services(name: string): Promise<readonly { readonly name: string; readonly port: number }[]>;
}

/** A lost packet is asked for again after so long, once. */
const ANSWER_MS = 2_000;
const TRIES = 2;
/** There is no such record, which says nothing of others. */
const NO_RECORD = 'ENODATA';

const resolver = (): dns.Resolver => new dns.Resolver({ timeout: ANSWER_MS, tries: TRIES });

/** As all programs of this machine have it: its file of hosts, then DNS. SRV records are in DNS alone. */
export const systemNames: Names = {
  addresses: async (host) => (await dns.lookup(host, { all: true })).map(({ address }) => address),
  // A resolver reads the system's configuration once: one of each time sees it change.
  services: (name) => resolver().resolveSrv(name),
};

/** DNS alone, of these servers: IP or IP:PORT. */
export function namesOf(servers: readonly string[]): Names {
  const asked = resolver();
  try {
    // Of none, nobody would be asked.
    if (servers.length === 0) throw new Error('none is given');
    asked.setServers(servers);
  } catch (error) {
    const message = `nameServers has to be a list of IP addresses, with a port or without: ${String(servers)}`;
    throw new TerabagError('invalid_argument', message, { field: 'nameServers' }, { cause: error });
  }
  return {
    async addresses(host) {
      const families = await Promise.all([asked.resolve4(host).catch(noneOf), asked.resolve6(host).catch(noneOf)]);
      const found = families.flat();
      if (found.length === 0) throw Object.assign(new Error(`no A or AAAA record: ${host}`), { code: NO_RECORD });
      return found;
    },
    services: (name) => asked.resolveSrv(name),
  };
}

/** A family that a name does not have; any other failure is one of all: a replica must not vanish for a lost packet. */
function noneOf(error: NodeJS.ErrnoException): string[] {
  if (error.code === NO_RECORD) return [];
  throw error;
}
