import { createSocket, type RemoteInfo } from 'node:dgram';
import { once } from 'node:events';
import { isIPv6 } from 'node:net';

const TYPES = { A: 1, AAAA: 28, SRV: 33 } as const;
export type RecordType = keyof typeof TYPES;

/** What a name has: IP addresses, or, of SRV, "host:port". Absent: no such name. */
export type Zone = Readonly<Record<string, Partial<Record<RecordType, readonly string[]>>>>;

export interface DnsServer {
  /** IP:PORT. */
  readonly address: string;
  /** null: answers that it failed. */
  zone: Zone | null;
  readonly questions: string[];
  close(): Promise<void>;
}

const NO_SUCH_NAME = 3;
const SERVER_FAILURE = 2;

/** A name server on UDP that knows a zone, for as much of RFC 1035, 2782 and 3596 as a question needs. */
export async function startDnsServer(zone: Zone): Promise<DnsServer> {
  const socket = createSocket('udp4');
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  const server: DnsServer = {
    address: `127.0.0.1:${socket.address().port}`,
    zone,
    questions: [],
    close: () => new Promise((resolve) => socket.close(() => resolve())),
  };
  socket.on('message', (query: Buffer, { port, address }: RemoteInfo) => socket.send(answer(server, query), port, address));
  return server;
}

function answer(server: DnsServer, query: Buffer): Buffer {
  const labels: string[] = [];
  let at = 12;
  for (let length = query.readUInt8(at); length > 0; length = query.readUInt8(at)) {
    labels.push(query.toString('latin1', at + 1, at + 1 + length));
    at += 1 + length;
  }
  const type = query.readUInt16BE(at + 1);
  const question = query.subarray(12, at + 5);
  const name = labels.join('.').toLowerCase();
  const kind = (Object.keys(TYPES) as RecordType[]).find((one) => TYPES[one] === type);
  server.questions.push(`${kind ?? type} ${name}`);
  const known = server.zone?.[name];
  const records = kind === undefined ? [] : (known?.[kind] ?? []).map((value) => record(kind, value));
  const header = Buffer.alloc(12);
  query.copy(header, 0, 0, 2);
  const code = server.zone === null ? SERVER_FAILURE : known === undefined ? NO_SUCH_NAME : 0;
  // An answer, with recursion.
  header.writeUInt16BE(0x8180 | code, 2);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(records.length, 6);
  return Buffer.concat([header, question, ...records]);
}

function record(type: RecordType, value: string): Buffer {
  const data = dataOf(type, value);
  const head = Buffer.alloc(12);
  // The name of the question, which stands at byte 12.
  head.writeUInt16BE(0xc00c, 0);
  head.writeUInt16BE(TYPES[type], 2);
  head.writeUInt16BE(1, 4);
  head.writeUInt16BE(data.length, 10);
  return Buffer.concat([head, data]);
}

function dataOf(type: RecordType, value: string): Buffer {
  if (type === 'A') return Buffer.from(value.split('.').map(Number));
  if (type === 'AAAA') return ipv6(value);
  const [host = '', port] = value.split(':');
  const numbers = Buffer.alloc(6);
  numbers.writeUInt16BE(Number(port), 4);
  return Buffer.concat([
    numbers,
    ...host.split('.').map((label) => Buffer.from(`${String.fromCharCode(label.length)}${label}`, 'latin1')),
    Buffer.alloc(1),
  ]);
}

function ipv6(text: string): Buffer {
  if (!isIPv6(text)) throw new Error(`no IPv6 address: ${text}`);
  const [before = '', after] = text.split('::');
  const groups = (part: string): number[] => (part === '' ? [] : part.split(':').map((group) => Number.parseInt(group, 16)));
  const [left, right] = [groups(before), groups(after ?? '')];
  const bytes = Buffer.alloc(16);
  for (const [group, value] of left.entries()) bytes.writeUInt16BE(value, 2 * group);
  for (const [group, value] of right.entries()) bytes.writeUInt16BE(value, 2 * (8 - right.length + group));
  return bytes;
}
