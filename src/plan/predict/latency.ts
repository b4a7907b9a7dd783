import type { Costs } from './costs.js';

/** CPU us of messages at one end: per message, and per byte of them. */
export interface Messages {
  readonly fixedUs: number;
  readonly bytesUs: number;
}

/** CPU us of one round: the main shard asks shards, and goes on when all have answered. */
export interface Round {
  /** What the main shard takes to send and to receive. */
  readonly messages: Messages;
  /** What the main shard does meanwhile: layers that need no embeddings, tables of its own. */
  readonly besideUs: number;
  readonly shards: readonly { readonly messages: Messages; readonly poolUs: number }[];
}

/** A request: what main does in a row, and rounds. */
export interface Timeline {
  readonly serialUs: number;
  readonly rounds: readonly Round[];
}

export const latencyUs = ({ serialUs, rounds }: Timeline, costs: Pick<Costs, 'latency' | 'sharedCores'>): number =>
  rounds.reduce((sum, round) => sum + roundUs(round, costs), serialUs);

/** What works on messages of the main shard: its own thread, and that of its sockets. */
const MESSAGE_THREADS = 2;

/**
 * us that a round takes: the longest chain of work of which each piece waits for the one before, or all its work over all cores where processes
 * share them, or the main shard's messages over the threads that it has for them, whichever is longest. Not all of the work on messages is waited
 * for: sockets have threads of their own, and what bytes cost is for a large part memory that is collected and cleared beside.
 */
function roundUs({ messages, besideUs, shards }: Round, { latency, sharedCores }: Pick<Costs, 'latency' | 'sharedCores'>): number {
  if (shards.length === 0) return besideUs;
  const { waitUs, onPath, bytesOnPath } = latency;
  const waitedFor = ({ fixedUs, bytesUs }: Messages): number => onPath * fixedUs + bytesOnPath * bytesUs;
  const takingCores = ({ fixedUs, bytesUs }: Messages): number => fixedUs + bytesOnPath * bytesUs;
  let longest = 0;
  let work = takingCores(messages) + besideUs;
  for (const shard of shards) {
    longest = Math.max(longest, waitedFor(shard.messages) + shard.poolUs);
    work += takingCores(shard.messages) + shard.poolUs;
  }
  const chain = waitedFor(messages) + Math.max(longest, besideUs);
  const ofMain = (takingCores(messages) + besideUs) / MESSAGE_THREADS;
  return waitUs + Math.max(chain, ofMain, sharedCores === null ? 0 : work / sharedCores);
}
