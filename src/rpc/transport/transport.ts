import type { NativePeerLimits, NativeSocket } from '../../engine/native.js';
import type { Lent } from './buffer-pool.js';
import type { SecurityOptions } from './security.js';

/** Moves whole messages; knows nothing of tables. */
export interface ClientTransport {
  /** Queues a message, unless the peer is away or the queue is full: then false, and nothing is kept. The bytes are copied before it returns. */
  send(message: Uint8Array): boolean;
  /** Passes on what has arrived and is not read yet, before it returns where the sockets allow that. */
  readWaiting(): void;
  /** Why nobody is there, as the system says it (ENOTFOUND, ECONNREFUSED ...); null when it says nothing. Never rejects. */
  explain(): Promise<string | null>;
  close(): void;
}

export interface ClientHandlers {
  /** The peer is there, for the first time or again; nothing sent before reaches it. */
  up(): void;
  /** The peer is gone: what was sent and not answered is lost. */
  down(): void;
  /** An attempt to connect failed; others follow. */
  unreachable(): void;
  message(message: Lent): void;
}

/** Names the sender of a message, as long as it is connected; not for people. */
export type Peer = string;

/** Native code that answers messages of a socket where they are received. */
export interface SocketService {
  serveOn(socket: NativeSocket): void;
}

export interface ServerTransport {
  /** Where it listens, with the port that was bound. */
  readonly endpoint: string;
  /**
   * One message of all the parts, which are copied before it returns. False when the peer is gone or does not read, or when the message is longer
   * than room().
   */
  send(peer: Peer, parts: readonly Uint8Array[]): Promise<boolean>;
  /** Bytes that a message to the peer may have now: what was sent and is not taken yet counts against its budget, and the process's. */
  room(peer: Peer): number;
  /** From now on the service answers what it can, and the handler gets the rest; null: all again. Not every transport can do that. */
  serve(service: SocketService | null): void;
  /** For the service: how far this process's monotonic clock is ahead of that of the peer, ms, at least; see PeerClocks. */
  setClockOffset(peer: Peer, offsetMs: number): void;
  /** What the service counted of the messages that it answered, by name of the counter. */
  served(): Readonly<Record<string, number>>;
  /** Of those who connect. */
  peerCounts(): PeerCounts;
  /** Ends when what was sent is on its way, or a peer has not read it for half a second. */
  close(): Promise<void>;
}

/** What a server counts of its peers; names are those of a shard's stats. */
export interface PeerCounts {
  /** Connections that there are. */
  readonly connections: number;
  /** Connections that were refused: a key that is not allowed, none, or nothing of the protocol. */
  readonly strangers: number;
  /** Connections that were cut: too many of them, too many bytes, messages of several frames, a peer that does not read. */
  readonly cut: number;
}

export const NO_PEERS: PeerCounts = { connections: 0, strangers: 0, cut: 0 };

/** A server that can stop accepting connections, and accept again; those that there are stay. */
export interface Listening extends ServerTransport {
  unbind(): Promise<void>;
  bindAgain(): Promise<void>;
}

export type ServerHandler = (peer: Peer, message: Lent) => void;

export interface ListenOptions {
  /** Default: no keys, and loopback only. */
  readonly security?: SecurityOptions;
  /** Is told, rate-limited, of connections that are refused or cut, and of keys that cannot be read anew. */
  readonly onWarning?: (message: string) => void;
  /**
   * The connection of a peer that has sent something is gone: what is kept of it is of no use. Late by some hundred ms; with zeromq.js, by an answer
   * that finds nobody, and by each.
   */
  readonly onGone?: (peer: Peer) => void;
}

/**
 * Listens on an endpoint; rejects with invalid_argument (an endpoint that cannot be used, or others can reach and no keys; a key file), or overloaded
 * without file descriptors, and the system's reason.
 */
export type Listen = (endpoint: string, handler: ServerHandler, options?: ListenOptions) => Promise<ServerTransport>;

/** Longest message that either side accepts, bytes. */
export const MAX_MESSAGE_BYTES = 256 * 1024 * 1024;
/** Longest answer: what a message may hold, less room for its other fields. */
export const MAX_POOLED_BYTES = MAX_MESSAGE_BYTES - 1024;

/** What both kinds of servers are opened with. */
export interface SocketListenOptions {
  readonly security?: SecurityOptions;
  readonly limits?: NativePeerLimits;
  readonly onGone?: (peer: Peer) => void;
  /** Why somebody was refused or cut off, and keys that cannot be read anew. */
  readonly onRefused?: (reason: string) => void;
  /** Of an ipc endpoint, after each connection. */
  readonly accepted?: () => void;
}

/**
 * Limits that both kinds of sockets keep: every default of ZeroMQ that can hang or queue without bound is set. No ZMTP heartbeat: libzmq 4.3.5 can
 * abort the process under back-pressure, so that heartbeats are messages of the application.
 */
export const SOCKET_LIMITS = {
  highWaterMark: 4096,
  handshakeMs: 2000,
  tcpMaxRetransmitMs: 1500,
  reconnectMs: 20,
  /** A shard that is started again is found so soon, while attempts at one that is away cost next to nothing. */
  reconnectMaxMs: 100,
  /** An attempt that begins just before a partition heals gets no answer: half of the second within which requests are served again. */
  connectMs: 500,
  /** How long a server that closes goes on sending. */
  lingerMs: 500,
} as const;

/**
 * What peers may take. Of whole messages in either direction and of what is not whole, bytes are counted where they lie; native/wire/socket_watch.h.
 * A server's sockets keep all of them, a client's those of bytes.
 */
export const PEER_LIMITS = {
  /** Of a socket. */
  connections: 1024,
  /** Of these, those that have not sent a message yet; the oldest goes. */
  silentConnections: 256,
  /** A client greets as soon as it is connected. */
  firstMessageMs: 5000,
  /** Bytes received that are no message yet, or one that was not read: before a first message, of a connection, of all of this process. */
  silentBytes: 1024 * 1024,
  unreadBytes: MAX_MESSAGE_BYTES + 64 * 1024 * 1024,
  unreadProcessBytes: 1024 * 1024 * 1024,
  /** Bytes of answers that are not taken yet: of a connection (one answer of any length is always let through), of all of this process. */
  unsentBytes: 128 * 1024 * 1024,
  unsentProcessBytes: 512 * 1024 * 1024,
  /** How long a client may take nothing, when answers were refused already. */
  stalledMs: 5000,
} as const satisfies NativePeerLimits;

/** How often peers are looked at. */
export const WATCH_MS = 500;

/** Connections to a Unix socket that may wait to be accepted: fewer than are accepted at once before the event loop hears of them; see AcceptGuard. */
export const IPC_BACKLOG = 16;

/** A Unix socket. */
export const isIpc = (endpoint: string): boolean => endpoint.startsWith('ipc:');

/** An IPv6 address stands in brackets. The option is off otherwise: with it, a name could resolve to an address that the other side does not use. */
export const usesIpv6 = (endpoint: string): boolean => endpoint.includes('[');
