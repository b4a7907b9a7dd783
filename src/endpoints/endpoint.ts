import { isIP, isIPv6 } from 'node:net';
import { fileURLToPath } from 'node:url';

export const MAX_PORT = 65_535;
/** Of a name in DNS, without the dot at its end. */
const MAX_NAME = 253;
const LABEL = /^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?$/;

/** What an endpoint says of where a shard, or each of its replicas, is. */
export type Endpoint =
  /** A literal: what a socket connects to. */
  | { readonly kind: 'address' }
  /** Each of the host's addresses, of either family, is a replica. */
  | { readonly kind: 'name'; readonly host: string; readonly port: number }
  /** Each SRV record names a host and its port. */
  | { readonly kind: 'service'; readonly name: string }
  /** Each line is an endpoint of another kind. */
  | { readonly kind: 'file'; readonly path: string };

/** tcp://HOST:PORT (an IPv6 address in brackets), ipc://PATH, srv://NAME or file:///PATH; null of anything else. */
export function parseEndpoint(text: string): Endpoint | null {
  const [, scheme, rest = ''] = /^(tcp|ipc|srv|file):\/\/(.+)$/s.exec(text) ?? [];
  switch (scheme) {
    case 'tcp':
      return parseTcp(rest);
    case 'ipc':
      return { kind: 'address' };
    case 'srv':
      return isName(rest) ? { kind: 'service', name: rest } : null;
    case 'file':
      return parseFile(text);
    default:
      return null;
  }
}

/** A literal or a name with its port: what one process listens on. */
export const isEndpoint = (text: string): boolean => ['address', 'name'].includes(parseEndpoint(text)?.kind ?? '');

/** An endpoint that a server can listen on: the host may be an interface or *, and the port * or 0 for a free one. */
export const isListenEndpoint = (text: string): boolean => isEndpoint(text.replace(/^(tcp:\/\/.+):(?:\*|0)$/, '$1:1'));

/** Of an IP address. */
export const tcpAddress = (ip: string, port: number): string => `tcp://${ip.includes(':') ? `[${ip}]` : ip}:${port}`;

const TCP = /^(?:\[([^\]\s]+)\]|([^:\s]+)):(\d{1,5})$/;

/** As RFC 5952 writes it; an interface (%eth0) stays as it is. */
function ipv6Of(address: string): string {
  const [ip = '', ...scope] = address.split('%');
  return [new URL(`http://[${ip}]`).hostname.slice(1, -1), ...scope].join('%');
}

/** One spelling of the host of a tcp:// endpoint: names in lower case without a dot at the end, addresses as RFC 5952 writes them. Null of others. */
export function canonicalHost(text: string): string | null {
  if (!isEndpoint(text) || !text.startsWith('tcp://')) return null;
  const [, bracketed, host = ''] = TCP.exec(text.slice('tcp://'.length)) ?? [];
  return bracketed === undefined ? host.toLowerCase().replace(/\.$/, '') : ipv6Of(bracketed);
}

/** One spelling of an endpoint, to tell whether two are the same. */
export function canonicalEndpoint(text: string): string {
  if (text.startsWith('srv://')) return text.toLowerCase();
  const host = canonicalHost(text);
  return host === null ? text : tcpAddress(host, Number(text.slice(text.lastIndexOf(':') + 1)));
}

function parseTcp(rest: string): Endpoint | null {
  const [, bracketed, host = bracketed, digits] = TCP.exec(rest) ?? [];
  const port = Number(digits);
  if (host === undefined || !(port >= 1 && port <= MAX_PORT)) return null;
  if (bracketed !== undefined) return isIPv6(bracketed) ? { kind: 'address' } : null;
  return isIP(host) === 0 ? { kind: 'name', host, port } : { kind: 'address' };
}

/** In DNS, service names with their underscores included. */
export const isName = (name: string): boolean => name.length <= MAX_NAME && name.split('.').every((label) => LABEL.test(label));

function parseFile(text: string): Endpoint | null {
  try {
    const url = new URL(text);
    return url.host === '' && url.search === '' && url.hash === '' ? { kind: 'file', path: fileURLToPath(url) } : null;
  } catch {
    return null;
  }
}
