import { TerabagError } from '../errors.js';
import { MAX_PORT } from './endpoint.js';

/** Where HTTP listens. */
export interface HttpAddress {
  /** Absent: every address of this machine. */
  readonly host?: string;
  /** 0 takes a free one. */
  readonly port: number;
}

/** HOST:PORT, [IPv6]:PORT, or *:PORT for all addresses; field names it in the error (invalid_argument). */
export function httpAddress(field: string, text: string): HttpAddress {
  const [, ipv6, name, digits = ''] = /^(?:\[([\da-fA-F:.]+)\]|([^:\s[\]]+)):(\d{1,5})$/.exec(text) ?? [];
  const host = ipv6 ?? name;
  const port = Number(digits);
  if (host !== undefined && port <= MAX_PORT) return host === '*' ? { port } : { host, port };
  throw new TerabagError('invalid_argument', `${field} has to be HOST:PORT, such as 127.0.0.1:8000 or *:8000: ${text}`, { field });
}
