/** Moves whole messages; knows nothing of tables. A native transport can take the place of ZeroMQ behind these interfaces. */
export interface ClientTransport {
  /** Queues a message, unless the peer is away: then false, and nothing is kept. The transport owns the bytes from here on. */
  send(message: Uint8Array): boolean;
  close(): void;
}

export interface ClientHandlers {
  /** The peer is there, for the first time or again; nothing sent before reaches it. */
  up(): void;
  /** The peer is gone: what was sent and not answered is lost. */
  down(): void;
  message(bytes: Uint8Array): void;
}

export interface ServerTransport {
  /** Where it listens, with the port that was bound. */
  readonly endpoint: string;
  /** False when the peer is gone or does not read. */
  send(peer: Uint8Array, message: Uint8Array): Promise<boolean>;
  close(): Promise<void>;
}

export type ServerHandler = (peer: Uint8Array, bytes: Uint8Array) => void;

/** Longest message that either side accepts, bytes. */
export const MAX_MESSAGE_BYTES = 256 * 1024 * 1024;
/** Longest answer: what a message may hold, less room for its other fields. */
export const MAX_POOLED_BYTES = MAX_MESSAGE_BYTES - 1024;
