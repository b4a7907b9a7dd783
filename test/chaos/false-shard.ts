import { setTimeout as sleep } from 'node:timers/promises';
import { Dealer, Router } from 'zeromq';
import { decodeShardMessage } from '../../src/rpc/codec.js';
import type { ShardMessage } from '../../src/rpc/messages.js';
import type { Stage } from './case.js';

type Pooled = Extract<ShardMessage, { kind: 'pooled' }>;

/** What main gets in place of a message of the shard, and when. */
export interface Delivery {
  readonly bytes: Uint8Array;
  readonly afterMs?: number;
}

/** What main gets in place of an answer; null: the answer. The others of a shard's messages pass unchanged: main takes this for the shard. */
export type Falsify = (answer: Pooled, bytes: Buffer) => readonly Delivery[] | null;

const SOCKET = { linger: 0, sendHighWaterMark: 100_000, receiveHighWaterMark: 100_000 } as const;

/** Stands between main and a shard, speaks the protocol of both, and changes answers. */
export class FalseShard {
  falsify: Falsify | null = null;
  /** Answers that were changed. */
  numFalse = 0;
  readonly #dealers = new Map<string, Dealer>();
  /** A socket takes one message at a time. */
  readonly #turns = new WeakMap<Dealer | Router, Promise<unknown>>();
  #closed = false;

  private constructor(
    private readonly router: Router,
    private readonly shard: string,
  ) {}

  /** Closed at the end of the case. */
  static async open(stage: Stage, shard: string): Promise<FalseShard> {
    const router = new Router({ ...SOCKET, mandatory: true });
    await router.bind('tcp://127.0.0.1:*');
    const between = new FalseShard(router, shard);
    stage.defer(() => between.#close());
    void between.#fromMain();
    return between;
  }

  get endpoint(): string {
    return this.router.lastEndpoint ?? '';
  }

  async #fromMain(): Promise<void> {
    for await (const [peer, bytes] of this.router) {
      if (peer === undefined || bytes === undefined) continue;
      this.#send(this.#dealerOf(peer), [bytes]);
    }
  }

  #dealerOf(peer: Buffer): Dealer {
    const key = peer.toString('hex');
    const known = this.#dealers.get(key);
    if (known !== undefined) return known;
    const dealer = new Dealer(SOCKET);
    dealer.connect(this.shard);
    this.#dealers.set(key, dealer);
    void this.#fromShard(peer, dealer);
    return dealer;
  }

  async #fromShard(peer: Buffer, dealer: Dealer): Promise<void> {
    for await (const [bytes] of dealer) {
      if (bytes === undefined) continue;
      for (const { bytes: told, afterMs = 0 } of this.#deliveries(bytes)) void this.#deliver(peer, told, afterMs);
    }
  }

  #deliveries(bytes: Buffer): readonly Delivery[] {
    const message = this.falsify === null ? null : decodeShardMessage(bytes);
    const told = message?.kind === 'pooled' ? (this.falsify?.(message, bytes) ?? null) : null;
    if (told === null) return [{ bytes }];
    this.numFalse++;
    return told;
  }

  async #deliver(peer: Buffer, bytes: Uint8Array, afterMs: number): Promise<void> {
    if (afterMs > 0) await sleep(afterMs);
    this.#send(this.router, [peer, bytes]);
  }

  #send(socket: Dealer | Router, frames: Uint8Array[]): void {
    // The other side may have left meanwhile, or the case be over.
    const sent = (this.#turns.get(socket) ?? Promise.resolve())
      .then(() => (this.#closed ? undefined : socket.send(frames)))
      .catch(() => undefined);
    this.#turns.set(socket, sent);
  }

  #close(): void {
    this.#closed = true;
    for (const dealer of this.#dealers.values()) dealer.close();
    this.router.close();
  }
}
