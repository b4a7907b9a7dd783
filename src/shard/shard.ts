import type { Logger } from 'pino';
import type { Residency, ResidencyReport } from '../engine/residency.js';
import type { SparseEngine } from '../engine/sparse-engine.js';
import { engineTables, openTables } from '../engine/tables.js';
import { TerabagError } from '../errors.js';
import { openBundle } from '../model/bundle.js';
import { ServiceTimes } from '../observe/service-times.js';
import { checkPlan, type Plan } from '../plan/file/plan.js';
import { bundleOf, checkPublishedFor, placedParts } from '../plan/file/published.js';
import { decodeClientMessage, setSerializeUs, shardMessageParts } from '../rpc/codec.js';
import type { ClientMessage, ShardMessage, ShardState, ShardStats } from '../rpc/messages.js';
import { type Lent, messageBuffers } from '../rpc/transport/buffer-pool.js';
import { listenOn } from '../rpc/transport/sockets.js';
import { MAX_POOLED_BYTES, type Peer, type ServerTransport } from '../rpc/transport/transport.js';

export interface ShardOptions {
  readonly plan: Plan;
  /** Name of the shard in the plan. */
  readonly shard: string;
  /** The model's directory, the shard's published one, or the one that all shards were published to. */
  readonly bundle: string;
  /** Listens here instead of the plan's endpoint; tcp://127.0.0.1:* takes a free port. */
  readonly endpoint?: string;
  readonly log: Logger;
  readonly verify?: 'full' | 'size';
  /** How the tables are held in memory; default populate. */
  readonly residency?: Residency;
  /** Bytes of the tables brought into memory, and checked. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
  /** Requests beyond are answered with overloaded; default 1024. */
  readonly maxInFlight?: number;
}

type PoolMessage = Extract<ClientMessage, { kind: 'pool' }>;

/** Measuring walks the page tables of the process: milliseconds for a table of small pages, on a thread of the addon. */
const RESIDENCY_MS = 10_000;

/** Opens the shard's tables, listens, and serves until drained. */
export async function startShard(options: ShardOptions): Promise<Shard> {
  const { plan, shard, log } = options;
  const placed = plan.shards.find(({ name }) => name === shard);
  if (placed === undefined) {
    throw new TerabagError('bad_plan', `no such shard in the plan: ${shard}; it has ${plan.shards.map(({ name }) => name).join(', ')}`, {
      shard,
    });
  }
  const mine = placedParts(plan, shard);
  const tables = new Set(mine.keys());
  const bundle = await openBundle(await bundleOf(options.bundle, shard), { verify: 'later', tables, dense: false });
  checkPlan(plan, bundle.spec, bundle.hash);
  checkPublishedFor(plan, shard, bundle.spec, bundle.dir);
  const parts = engineTables(bundle, (table) => {
    const part = mine.get(bundle.spec.tables[table]?.name ?? '');
    return part === undefined ? [] : [part];
  });
  const { engine, residency } = await openTables(bundle, parts, { ...options, onWarning: (message) => log.warn(message) });
  const running = new Shard(shard, bundle.hash, engine, residency, options.maxInFlight ?? 1024, log);
  try {
    await running.listen(options.endpoint ?? placed.endpoints[0] ?? '');
  } catch (error) {
    engine.close();
    throw error;
  }
  const { tableBytes, residentBytes, hugePageBytes, lockedBytes } = running.stats();
  log.info(
    {
      shard,
      endpoint: running.endpoint,
      tables: tables.size,
      model: bundle.spec.name,
      hash: bundle.hash,
      prefetch: engine.tunedPrefetch,
      residency: { mode: engine.residency, tableBytes, residentBytes, hugePageBytes, lockedBytes },
    },
    'ready',
  );
  return running;
}

/** A sparse shard: holds tables, pools, answers; keeps no state of a request after its answer. */
export class Shard {
  state: ShardState = 'ready';
  #transport: ServerTransport | null = null;
  #inFlight = 0;
  #idle: (() => void) | null = null;
  readonly #startedAt = performance.now();
  #measuredAt = performance.now();
  readonly #tableBytes: number;
  readonly #idleTimes: ServiceTimes[] = [];
  readonly #counts = { requests: 0, errors: 0, malformed: 0, expired: 0, undeliverable: 0 };

  constructor(
    private readonly name: string,
    private readonly modelHash: string,
    private readonly engine: SparseEngine,
    private residency: ResidencyReport | null,
    private readonly maxInFlight: number,
    private readonly log: Logger,
  ) {
    this.#tableBytes = engine.tableBytes;
  }

  get endpoint(): string {
    return this.#transport?.endpoint ?? '';
  }

  async listen(endpoint: string): Promise<void> {
    this.#transport = await listenOn(endpoint, (peer, message) => this.#receive(peer, message));
    // With residency map, pooling may wait for the disk, which the event loop cannot.
    if (this.engine.residency !== 'map') this.#transport.serve(this.engine);
  }

  /** Refuses new requests, lets those in flight end (for at most ms), and closes. */
  async drain(ms: number): Promise<void> {
    this.state = 'draining';
    this.#transport?.serve(null);
    this.log.info({ inFlight: this.#inFlight }, 'draining');
    if (this.#inFlight > 0) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, ms);
        this.#idle = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    await this.#transport?.close();
    this.engine.close();
    this.log.info(this.#totals(), 'closed');
  }

  #receive(peer: Peer, received: Lent): void {
    const receivedAt = performance.now();
    let message: ClientMessage;
    try {
      message = decodeClientMessage(received.bytes);
    } catch (error) {
      // Without an id nobody can be answered.
      this.#counts.malformed++;
      this.log.warn({ reason: TerabagError.from(error).message }, 'malformed message');
      received.release();
      return;
    }
    if (message.kind === 'pool') {
      this.#serve(peer, message, receivedAt, received);
      return;
    }
    received.release();
    this.#reply(peer, this.#answer(message));
  }

  #answer(message: Exclude<ClientMessage, { kind: 'pool' }>): ShardMessage {
    switch (message.kind) {
      case 'hello':
        return { kind: 'welcome', shard: this.name, modelHash: this.modelHash, state: this.state };
      case 'ping':
        return { kind: 'pong', id: message.id, state: this.state };
      case 'stats':
        return { kind: 'stats', id: message.id, stats: this.stats() };
    }
  }

  #serve(peer: Peer, message: PoolMessage, receivedAt: number, received: Lent): void {
    this.#counts.requests++;
    this.#inFlight++;
    const times = message.timed ? (this.#idleTimes.pop() ?? new ServiceTimes()) : null;
    times?.begin(receivedAt);
    this.#pool(peer, message, receivedAt, times)
      .catch((thrown: unknown) => {
        this.#counts.errors++;
        const { code, message: text, details } = TerabagError.from(thrown);
        this.#reply(peer, { kind: 'error', id: message.id, code, message: text, details });
      })
      .finally(() => {
        received.release();
        if (times !== null) this.#idleTimes.push(times);
        this.#inFlight--;
        if (this.#inFlight === 0) this.#idle?.();
      });
  }

  /** Pools and answers. */
  async #pool(peer: Peer, message: PoolMessage, receivedAt: number, times: ServiceTimes | null): Promise<void> {
    if (this.state === 'draining') throw new TerabagError('draining', `the shard drains: ${this.name}`);
    if (this.#inFlight > this.maxInFlight)
      throw new TerabagError('overloaded', `too many requests in flight on shard: ${this.name}, ${this.#inFlight}`);
    const { batch, id, remainingMs } = message;
    const expire = (): TerabagError => {
      this.#counts.expired++;
      return new TerabagError(
        'deadline_exceeded',
        `the deadline passed on the shard: ${this.name}, ${Math.round(remainingMs)} ms were left`,
      );
    };
    // Nobody waits for it any more: it was sent again, or waited, until its deadline.
    if (remainingMs <= 0) throw expire();
    const length = this.engine.outputLength(batch.segments, batch.offsets);
    if (length * 4 > MAX_POOLED_BYTES)
      throw new TerabagError(
        'bad_message',
        `the answer would be longer than a message may be: ${length * 4} bytes, limit ${MAX_POOLED_BYTES}`,
      );
    const answer = messageBuffers.take(length * 4);
    try {
      times?.endDispatch();
      await this.engine.pool(batch, new Float32Array(answer.bytes.buffer, 0, length), times);
      times?.endPooling();
      const serviceMs = performance.now() - receivedAt;
      if (serviceMs > remainingMs) throw expire();
      const stages = times?.stages ?? null;
      this.#reply(peer, { kind: 'pooled', id, serviceUs: serviceMs * 1000, pooled: answer.bytes, stages }, times);
    } finally {
      answer.release();
    }
  }

  #reply(peer: Peer, message: ShardMessage, times: ServiceTimes | null = null): void {
    const parts = shardMessageParts(message);
    if (times !== null) setSerializeUs(parts, times.endSerialization());
    void this.#transport?.send(peer, parts).then((delivered) => {
      if (!delivered) this.#counts.undeliverable++;
    });
  }

  /** With what the transport answered by itself. */
  #totals(): Pick<ShardStats, 'requests' | 'errors' | 'malformed' | 'expired' | 'undeliverable'> {
    const { answered, undeliverable } = this.#transport?.served() ?? { answered: 0, undeliverable: 0 };
    const counts = this.#counts;
    return { ...counts, requests: counts.requests + answered, undeliverable: counts.undeliverable + undeliverable };
  }

  /** Measures again for the next caller when the figures are old. */
  #refreshResidency(): void {
    if (this.state === 'draining' || performance.now() - this.#measuredAt < RESIDENCY_MS) return;
    this.#measuredAt = performance.now();
    this.engine.measureResidency().then(
      (report) => {
        this.residency = report;
      },
      (error: unknown) => this.log.warn({ reason: TerabagError.from(error).message }, 'residency cannot be measured'),
    );
  }

  stats(): ShardStats {
    this.#refreshResidency();
    const { residentBytes = null, hugePageBytes = null, lockedBytes = null } = this.residency ?? {};
    const { user, system } = process.cpuUsage();
    return {
      shard: this.name,
      model: this.modelHash,
      state: this.state,
      uptimeMs: performance.now() - this.#startedAt,
      ...this.#totals(),
      inFlight: this.#inFlight,
      cpuUserUs: user,
      cpuSystemUs: system,
      rssBytes: process.memoryUsage.rss(),
      tableBytes: this.#tableBytes,
      residentBytes,
      hugePageBytes,
      lockedBytes,
    };
  }
}
