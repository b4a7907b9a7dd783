import { Dealer, Router } from 'zeromq';
import type { Lent } from './buffer-pool.js';
import { whyUnreachable } from './reasons.js';
import {
  type ClientHandlers,
  type ClientTransport,
  IPC_BACKLOG,
  isIpc,
  type Listening,
  MAX_MESSAGE_BYTES,
  type ServerHandler,
  SOCKET_LIMITS,
  usesIpv6,
} from './transport.js';

const SOCKET_OPTIONS = {
  linger: 0,
  sendHighWaterMark: SOCKET_LIMITS.highWaterMark,
  receiveHighWaterMark: SOCKET_LIMITS.highWaterMark,
  sendTimeout: 0,
  maxMessageSize: MAX_MESSAGE_BYTES,
  handshakeInterval: SOCKET_LIMITS.handshakeMs,
  tcpMaxRetransmitTimeout: SOCKET_LIMITS.tcpMaxRetransmitMs,
} as const;

/** Memory of its own, which V8 frees. */
const owned = (bytes: Uint8Array): Lent => ({ bytes, release: () => undefined });

/** A DEALER of zeromq.js; `immediate` keeps it from queueing for a peer that is away. */
export function connectZeromq(endpoint: string, handlers: ClientHandlers): ClientTransport {
  const socket = new Dealer({
    ...SOCKET_OPTIONS,
    ipv6: usesIpv6(endpoint),
    immediate: true,
    reconnectInterval: SOCKET_LIMITS.reconnectMs,
    reconnectMaxInterval: SOCKET_LIMITS.reconnectMaxMs,
    connectTimeout: SOCKET_LIMITS.connectMs,
  });
  let closed = false;
  // Events are told after close, too.
  const unlessClosed = (tell: () => void) => () => {
    if (!closed) tell();
  };
  const down = unlessClosed(handlers.down);
  socket.events.on('handshake', unlessClosed(handlers.up));
  socket.events.on('disconnect', down);
  socket.events.on('connect:retry', unlessClosed(handlers.unreachable));
  const receive = async (): Promise<void> => {
    for await (const [bytes] of socket) if (bytes !== undefined && !closed) handlers.message(owned(bytes));
  };
  receive().catch(down);
  try {
    socket.connect(endpoint);
  } catch (error) {
    socket.close();
    throw error;
  }
  return {
    send(message) {
      if (closed || !socket.writable) return false;
      socket.send(Buffer.from(message)).catch(down);
      return true;
    },
    // zeromq.js reads by itself, in later turns of the event loop.
    readWaiting: () => undefined,
    explain: () => whyUnreachable(endpoint),
    close() {
      closed = true;
      socket.close();
    },
  };
}

/**
 * A ROUTER of zeromq.js; `mandatory` makes an unknown peer an error instead of a silent drop. accepted: of an ipc endpoint, after each connection.
 */
export async function listenZeromq(endpoint: string, handler: ServerHandler, accepted: () => void = () => undefined): Promise<Listening> {
  const socket = new Router({ ...SOCKET_OPTIONS, ipv6: usesIpv6(endpoint), mandatory: true });
  if (isIpc(endpoint)) {
    socket.backlog = IPC_BACKLOG;
    socket.events.on('accept', accepted);
  }
  try {
    await socket.bind(endpoint);
  } catch (error) {
    socket.close();
    throw error;
  }
  const receive = async (): Promise<void> => {
    for await (const [peer, bytes] of socket) {
      if (peer !== undefined && bytes !== undefined) handler(peer.toString('latin1'), owned(bytes));
    }
  };
  const received = receive();
  const bound = socket.lastEndpoint ?? endpoint;
  return {
    endpoint: bound,
    send: (peer, parts) =>
      socket.send([Buffer.from(peer, 'latin1'), Buffer.concat(parts)]).then(
        () => true,
        () => false,
      ),
    serve: () => undefined,
    setClockOffset: () => undefined,
    served: () => ({}),
    unbind: () => socket.unbind(bound),
    bindAgain: () => socket.bind(bound),
    async close() {
      if (!socket.closed) {
        socket.linger = SOCKET_LIMITS.lingerMs;
        socket.close();
      }
      await received;
    },
  };
}
