import { performance } from 'node:perf_hooks';
import type { JobTimes } from '../engine/job-times.js';
import { SHARD_STAGES } from '../rpc/messages.js';
import { JOB, RPC, SPAN } from './layout.js';

const { nodeTiming } = performance;
const NUM_STAGES = SHARD_STAGES.length;

/** A call of the addon, which writes its times into the record itself. */
export class JobSpan implements JobTimes {
  constructor(
    /** All records lie in it. */
    readonly times: Float64Array,
    private readonly at: number,
  ) {}

  get timesAt(): number {
    return this.at + JOB.queuedUs;
  }

  set onThread(hops: boolean) {
    this.times[this.at + JOB.onThread] = hops ? 1 : 0;
  }

  /** The call is over, and what waited for it goes on. */
  end(): void {
    this.times[this.at + SPAN.endedAt] = performance.now();
  }
}

/** Keeps the memory of a span from being used again. */
interface Holder {
  hold(): void;
  letGo(): void;
}

/** A message to a shard and its answer. */
export class RpcSpan {
  constructor(
    private readonly slab: Float64Array,
    private readonly at: number,
    private readonly holder: Holder,
  ) {}

  /** The message is encoded. */
  serialized(): void {
    this.slab[this.at + RPC.serializedAt] = performance.now();
  }

  /** The answer is waited for from here on, also when the request ends before; until letGo. */
  hold(): void {
    this.holder.hold();
  }

  letGo(): void {
    this.holder.letGo();
  }

  /** The socket has the message. */
  sent(): void {
    this.slab[this.at + RPC.sentAt] = performance.now();
    this.slab[this.at + RPC.idleSent] = nodeTiming.idleTime;
  }

  /** The answer is decoded; it came at receivedAt. stages: of the shard, in the order of SHARD_STAGES, us. */
  answered(receivedAt: number, stages: ArrayLike<number> | null): void {
    const { slab, at } = this;
    slab[at + SPAN.endedAt] = performance.now();
    slab[at + RPC.receivedAt] = receivedAt;
    slab[at + RPC.idleReceived] = nodeTiming.idleTime;
    for (let s = 0; s < NUM_STAGES; s++) slab[at + RPC.stages + s] = stages?.[s] ?? 0;
  }
}
