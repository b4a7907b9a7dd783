import type { JobTimes } from '../engine/job-times.js';
import { SHARD_STAGES, STAGE_SLOTS } from '../rpc/messages.js';

/** What a shard's work on one message takes, stage after stage; used again for another message when that one is answered. */
export class ServiceTimes implements JobTimes {
  /** In the order of SHARD_STAGES, us. */
  readonly stages = new Float64Array(SHARD_STAGES.length);
  /** How long pooling was queued and ran, and its CPU time, which is asked for by what is not 0. */
  readonly times = new Float64Array(3);
  readonly timesAt = 0;
  onThread = false;
  #at = 0;

  /** receivedAt: when the message came. It is decoded now. */
  begin(receivedAt: number): void {
    this.#at = receivedAt;
    this.times[2] = 1;
    this.stages[STAGE_SLOTS.deserializeUs] = this.#lap();
  }

  endDispatch(): void {
    this.stages[STAGE_SLOTS.dispatchUs] = this.#lap();
  }

  endPooling(): void {
    const { stages, times, onThread } = this;
    const callUs = this.#lap();
    const queuedUs = onThread ? (times[0] as number) : 0;
    const ranUs = onThread ? (times[1] as number) : callUs;
    stages[STAGE_SLOTS.queueUs] = queuedUs;
    stages[STAGE_SLOTS.poolUs] = ranUs;
    stages[STAGE_SLOTS.handBackUs] = Math.max(0, callUs - queuedUs - ranUs);
    stages[STAGE_SLOTS.poolCpuUs] = onThread ? (times[2] as number) : callUs;
  }

  /** From the end of pooling. */
  endSerialization(): number {
    const us = this.#lap();
    this.stages[STAGE_SLOTS.serializeUs] = us;
    return us;
  }

  #lap(): number {
    const now = performance.now();
    const us = (now - this.#at) * 1000;
    this.#at = now;
    return us;
  }
}
