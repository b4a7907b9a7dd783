import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

const MORE = 0x01;
const LONG = 0x02;
const COMMAND = 0x04;

/** The first bytes of a ZMTP 3.1 peer without security (NULL). */
function greeting(): Buffer {
  const bytes = Buffer.alloc(64);
  bytes.set([0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1]);
  bytes.write('NULL', 12);
  return bytes;
}

function property(name: string, value: string): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(value.length);
  return Buffer.concat([Buffer.of(name.length), Buffer.from(name), length, Buffer.from(value)]);
}

/** What stands in front of a frame's bytes; its length may lie. */
export function frameHead(length: number | bigint, { more = false }: { readonly more?: boolean } = {}): Buffer {
  const head = Buffer.alloc(9);
  head[0] = LONG | (more ? MORE : 0);
  head.writeBigUInt64BE(BigInt(length), 1);
  return head;
}

export const frame = (bytes: Uint8Array): Buffer => Buffer.concat([frameHead(bytes.length), bytes]);

function ready(): Buffer {
  const body = Buffer.concat([Buffer.from('\x05READY'), property('Socket-Type', 'DEALER'), property('Identity', '')]);
  return Buffer.concat([Buffer.of(COMMAND, body.length), body]);
}

/** A TCP connection to an endpoint tcp://host:port, whose errors end it and nothing else. */
export async function rawConnection(endpoint: string): Promise<Socket> {
  const [, host = '', port = ''] = /^tcp:\/\/(.+):(\d+)$/.exec(endpoint) ?? [];
  const socket = connect({ host, port: Number(port), noDelay: true });
  const failed = new Promise<never>((_, reject) => socket.once('error', reject));
  socket.on('error', () => socket.destroy());
  await Promise.race([once(socket, 'connect'), failed]);
  return socket;
}

/** A peer that has greeted, as a DEALER of libzmq would, and from here on writes and reads only what it is told to. */
export async function greetedConnection(endpoint: string): Promise<Socket> {
  const socket = await rawConnection(endpoint);
  socket.write(greeting());
  await once(socket, 'data');
  socket.write(ready());
  return socket;
}

/** Resolves when the system has taken it, or the connection has ended. */
export const written = (socket: Socket, bytes: Uint8Array): Promise<void> =>
  new Promise((resolve) => {
    if (socket.destroyed) resolve();
    else socket.write(bytes, () => resolve());
  });
