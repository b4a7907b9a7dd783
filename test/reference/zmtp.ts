import { connect, type Socket } from 'node:net';

/** Bytes of ZMTP 3.1 (rfc.zeromq.org/spec/37), as a peer without keys sends them, for peers that break the rules. */

const MORE = 1;
const LONG = 2;
const COMMAND = 4;
const SHORT_LIMIT = 255;
const GREETING_BYTES = 64;

export const greeting = (mechanism = 'NULL'): Buffer => {
  const bytes = Buffer.alloc(GREETING_BYTES);
  bytes.set([0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 1]);
  bytes.write(mechanism, 12, 'latin1');
  return bytes;
};

export function frame(body: Uint8Array, flags = 0): Buffer {
  const long = body.byteLength > SHORT_LIMIT;
  const header = Buffer.alloc(long ? 9 : 2);
  header[0] = flags | (long ? LONG : 0);
  if (long) header.writeBigUInt64BE(BigInt(body.byteLength), 1);
  else header[1] = body.byteLength;
  return Buffer.concat([header, body]);
}

export const frameWithMore = (body: Uint8Array): Buffer => frame(body, MORE);

const property = (name: string, value: Uint8Array): Buffer => {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(value.byteLength);
  return Buffer.concat([Buffer.of(name.length), Buffer.from(name, 'latin1'), length, value]);
};

/** The command that ends a handshake without keys. */
export function ready(socketType: string, identity?: Uint8Array): Buffer {
  const properties = [property('Socket-Type', Buffer.from(socketType, 'latin1'))];
  if (identity !== undefined) properties.push(property('Identity', identity));
  return frame(Buffer.concat([Buffer.of(5), Buffer.from('READY', 'latin1'), ...properties]), COMMAND);
}

/** Connects, and sends these bytes at once. Errors are of no interest: who breaks rules is cut off. */
export async function rawPeer(endpoint: string, ...bytes: readonly Uint8Array[]): Promise<Socket> {
  const { hostname, port, pathname } = new URL(endpoint.replace(/^(tcp|ipc):/, 'http:').replace('http:///', 'http://unix/'));
  const socket = endpoint.startsWith('ipc:') ? connect(pathname) : connect(Number(port), hostname);
  socket.on('error', () => undefined);
  await new Promise<void>((resolve) => {
    socket.once('connect', resolve);
    socket.once('close', resolve);
  });
  for (const each of bytes) socket.write(each);
  return socket;
}

/** A DEALER whose handshake is done: what came before the other side's end of it would be taken for a part of it. */
export async function rawDealer(endpoint: string, identity?: Uint8Array): Promise<Socket> {
  const socket = await rawPeer(endpoint, greeting(), ready('DEALER', identity));
  for (let bytes = 0; bytes <= GREETING_BYTES && !socket.destroyed; ) bytes += await nextBytes(socket);
  // What is not read keeps it from hearing of its end.
  return socket.resume();
}

const nextBytes = (socket: Socket): Promise<number> =>
  new Promise((resolve) => {
    socket.once('data', (data: Uint8Array) => resolve(data.byteLength));
    socket.once('close', () => resolve(0));
  });

/** Sends bytes again and again, as fast as they are taken, until the connection has gone; how many were. */
export async function flood(socket: Socket, bytes: Uint8Array): Promise<number> {
  let sent = 0;
  while (!socket.destroyed && socket.writable) {
    const taken = socket.write(bytes);
    sent += bytes.byteLength;
    if (!taken)
      await new Promise<void>((resolve) => {
        const go = (): void => {
          socket.off('drain', go);
          socket.off('close', go);
          resolve();
        };
        socket.on('drain', go);
        socket.on('close', go);
      });
  }
  return sent;
}
