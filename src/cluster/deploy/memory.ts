import { PEER_LIMITS } from '../../rpc/transport/transport.js';

const MIB = 1024 * 1024;
/** Node.js, libzmq and the addon, with buffers of usual requests. */
const PROCESS_BYTES = 512 * MIB;
/** Page tables of small pages take 8 bytes of 4096; the rest is for the ends of files. */
const TABLES_SHARE = 1.01;

/** Bytes that a process of a plan may need. */
export interface MemoryNeeds {
  readonly request: number;
  readonly limit: number;
}

/** Of a process that holds so many bytes of tables and weights. The limit has room for all that peers may take before they are cut off. */
export function memoryNeeds(heldBytes: number): MemoryNeeds {
  const request = roundUp(heldBytes * TABLES_SHARE + PROCESS_BYTES);
  return { request, limit: roundUp(request + PEER_LIMITS.unreadProcessBytes + PEER_LIMITS.unsentProcessBytes) };
}

const roundUp = (bytes: number): number => Math.ceil(bytes / MIB) * MIB;

/** A quantity of Kubernetes and of systemd's units alike, when the former's i is taken off. */
export const mebibytes = (bytes: number): string => `${Math.ceil(bytes / MIB)}Mi`;

/** How long a start may take which reads and checks so many bytes from a slow disk. */
const BYTES_PER_S = 100 * MIB;
const START_S = 300;
export const startSeconds = (heldBytes: number): number => Math.ceil(START_S + heldBytes / BYTES_PER_S);
