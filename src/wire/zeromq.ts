import { Dealer, Router } from 'zeromq';
import { TerabagError } from '../errors.js';
import { type ClientHandlers, type ClientTransport, MAX_MESSAGE_BYTES, type ServerHandler, type ServerTransport } from './transport.js';

/**
 * Every default that can hang or queue without bound is set. No ZMTP heartbeat: libzmq 4.3.5 can abort the process under back-pressure,
 * so that pings are messages of ours.
 */
const SOCKET_OPTIONS = {
  linger: 0,
  sendHighWaterMark: 4096,
  receiveHighWaterMark: 4096,
  sendTimeout: 0,
  maxMessageSize: MAX_MESSAGE_BYTES,
  handshakeInterval: 2000,
  tcpMaxRetransmitTimeout: 1500,
} as const;

/** An IPv6 address stands in brackets. The option is off otherwise: with it, a name could resolve to an address that the other side does not use. */
const usesIpv6 = (endpoint: string): boolean => endpoint.includes('[');

/** A DEALER that reconnects by itself; `immediate` keeps it from queueing for a peer that is away. */
export function connectZeromq(endpoint: string, handlers: ClientHandlers): ClientTransport {
  const socket = new Dealer({
    ...SOCKET_OPTIONS,
    ipv6: usesIpv6(endpoint),
    immediate: true,
    reconnectInterval: 50,
    reconnectMaxInterval: 400,
    connectTimeout: 1000,
  });
  socket.events.on('handshake', handlers.up);
  socket.events.on('disconnect', handlers.down);
  let closed = false;
  const receive = async (): Promise<void> => {
    for await (const [bytes] of socket) if (bytes !== undefined && !closed) handlers.message(bytes);
  };
  receive().catch(() => handlers.down());
  try {
    socket.connect(endpoint);
  } catch (error) {
    socket.close();
    throw new TerabagError('bad_plan', `endpoint cannot be used: ${endpoint}`, { endpoint }, { cause: error });
  }
  return {
    send(message) {
      if (closed || !socket.writable) return false;
      socket.send(message).catch(() => handlers.down());
      return true;
    },
    close() {
      closed = true;
      socket.close();
    },
  };
}

/** A ROUTER; `mandatory` makes an unknown peer an error instead of a silent drop. */
export async function listenZeromq(endpoint: string, handler: ServerHandler): Promise<ServerTransport> {
  const socket = new Router({ ...SOCKET_OPTIONS, ipv6: usesIpv6(endpoint), mandatory: true });
  try {
    await socket.bind(endpoint);
  } catch (error) {
    socket.close();
    const reason = error instanceof Error ? error.message : String(error);
    throw new TerabagError(
      'invalid_argument',
      `cannot listen (is the port taken?): ${endpoint}, ${reason}`,
      { endpoint },
      { cause: error },
    );
  }
  const receive = async (): Promise<void> => {
    for await (const [peer, bytes] of socket) if (peer !== undefined && bytes !== undefined) handler(peer, bytes);
  };
  const received = receive();
  return {
    endpoint: socket.lastEndpoint ?? endpoint,
    send: (peer, message) =>
      socket.send([peer, message]).then(
        () => true,
        () => false,
      ),
    async close() {
      socket.linger = 500;
      socket.close();
      await received;
    },
  };
}
