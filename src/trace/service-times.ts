import { SHARD_STAGES, type ShardStage } from '../wire/messages.js';

/** What a shard's work on one message takes, stage after stage; made only when the message asks. */
export class ServiceTimes {
  /** In the order of SHARD_STAGES, us. */
  readonly stages = new Float64Array(SHARD_STAGES.length);
  /** For SparseEngine.pool; its CPU time is asked for. */
  readonly pooling = Float64Array.of(0, 0, 1);
  #at: number;

  constructor(receivedAt: number) {
    this.#at = receivedAt;
  }

  /** The stage ends now; the next one begins. */
  end(stage: ShardStage): void {
    this.#set(stage, this.#lap());
  }

  /** Pooling has ended, and its call with it. */
  endPooling(): void {
    const [queuedUs = 0, ranUs = 0, cpuUs = 0] = this.pooling;
    this.#set('queueUs', queuedUs);
    this.#set('poolUs', ranUs);
    this.#set('handBackUs', Math.max(0, this.#lap() - queuedUs - ranUs));
    this.#set('poolCpuUs', cpuUs);
  }

  #lap(): number {
    const now = performance.now();
    const us = (now - this.#at) * 1000;
    this.#at = now;
    return us;
  }

  #set(stage: ShardStage, us: number): void {
    this.stages[SHARD_STAGES.indexOf(stage)] = us;
  }
}
