import { SEGMENT_FIELDS, type SparseBatch } from '../../src/engine/sparse-batch.js';
import { type Pooling, type ServerOptions, ShardServer } from '../../src/rpc/server.js';
import type { ShardStats } from '../../src/rpc/shard-stats.js';
import { NO_PEERS } from '../../src/rpc/transport/transport.js';
import type { CheckedBuffers } from './buffers.js';
import type { Network, Path, SimulatedServer } from './network.js';
import { SimulatedProcess } from './process.js';
import type { SeededRandom } from './random.js';
import { DIM, rowValue } from './reference.js';
import type { Scheduler } from './scheduler.js';
import type { Trace } from './trace.js';
import type { Violations } from './violations.js';

/** A timer counts whole ms, and is early by one more at most. */
const EARLY_MS = 2;

/** How a shard pools: in the callback, or on threads, which end out of order. */
export interface Service {
  readonly on: 'loop' | 'threads';
  readonly ms: number;
  /** Of an exponential distribution on top. */
  readonly tailMs: number;
}

/** What all replicas of a simulation share. */
export interface Machines {
  readonly scheduler: Scheduler;
  readonly random: SeededRandom;
  readonly trace: Trace;
  readonly violations: Violations;
  readonly buffers: CheckedBuffers;
  readonly network: Network;
  readonly service: Service;
  readonly server: Pick<ServerOptions, 'maxInFlight' | 'maxPooling'>;
  readonly pauses: { readonly chance: number; readonly maxMs: number };
  /** Told when a shard begins to pool. */
  readonly begins: (replica: Replica, batch: SparseBatch) => void;
  /** What a version is called on the wire. */
  readonly identify: (version: number) => Pick<ServerOptions, 'version' | 'kernels'>;
}

/** A place where a shard runs: one process after another, each without memory of those before. */
export class Replica {
  process: SimulatedProcess | null = null;
  server: ShardServer | null = null;
  #transport: SimulatedServer | null = null;
  #incarnations = 0;
  /** Service takes so many times as long. */
  slowness = 1;
  /** Counted of incarnations that ended. */
  version = 0;
  draining = false;

  constructor(
    private readonly machines: Machines,
    readonly shard: string,
    readonly name: string,
    readonly path: Path,
    public endpoint: string,
  ) {}

  get transport(): SimulatedServer | null {
    return this.#transport;
  }

  get stopped(): boolean {
    return this.#transport?.stopped === true;
  }

  start(version: number): void {
    const { scheduler, violations, random, pauses, network, trace } = this.machines;
    const process = new SimulatedProcess({
      ...{ name: `${this.name}.${++this.#incarnations}`, scheduler, violations, random, pauses },
      originMs: random.magnitude(1, 1e9),
      rate: 1 + random.between(-5e-5, 5e-5),
    });
    this.version = version;
    this.draining = false;
    const server: ShardServer = new ShardServer({
      ...{ shard: this.shard, ...this.machines.identify(version), ...this.machines.server },
      pooling: this.#pooling(process, version),
      stats: () => this.#stats(server),
      log: () => undefined,
      clock: process,
    });
    this.server = server;
    this.process = process;
    this.#transport = network.listen(
      this.endpoint,
      process,
      { message: (peer, message) => server.receive(peer, message), gone: (peer) => server.forget(peer) },
      version,
    );
    server.attach(this.#transport);
    trace.add(process.name, 'starts', version);
  }

  /** As by kill -9, or with its host. */
  kill(): void {
    const { trace, buffers } = this.machines;
    const { process } = this;
    if (process === null) return;
    trace.add(process.name, 'killed');
    process.kill();
    buffers.forget(process);
    this.#transport?.end();
    this.#forget();
  }

  /** Drains, and ends. */
  terminate(ms: number): void {
    const { process, server } = this;
    const transport = this.#transport;
    if (process === null || server === null || this.draining) return;
    this.draining = true;
    this.machines.trace.add(process.name, 'drains', ms);
    process.perform('sockets', () => {
      const endsAt = process.time + ms;
      void server.drain(ms).then(async () => {
        const { inFlight } = server.counts;
        const early = inFlight > 0 && process.time < endsAt - EARLY_MS;
        this.machines.violations.hold('drain', !early, () => `${process.name} has drained, and has requests still: ${inFlight}`);
        await transport?.close();
        if (this.process !== process) return;
        this.#checkEnd(process, server);
        process.kill();
        this.machines.buffers.forget(process);
        this.machines.trace.add(process.name, 'ended');
        this.#forget();
      });
    });
  }

  stop(): void {
    if (this.#transport !== null) this.#transport.stopped = true;
  }

  proceed(): void {
    if (this.#transport !== null) this.#transport.stopped = false;
  }

  #forget(): void {
    this.process = null;
    this.server = null;
    this.#transport = null;
  }

  #checkEnd(process: SimulatedProcess, server: ShardServer): void {
    const { violations } = this.machines;
    // What threads still pool when the time is over ends with the process.
    if (server.counts.inFlight > 0) return;
    violations.hold('leak', this.machines.buffers.lentTo(process) === 0, () => `${process.name} ends without having released its buffers`);
    violations.hold('leak', process.timers === 0, () => `${process.name} ends with timers: ${process.timers}`);
  }

  #pooling(process: SimulatedProcess, version: number): Pooling {
    const { random, service, begins } = this.machines;
    return {
      outputLength: (segments) => bagsOf(segments) * DIM,
      pool: (batch, into) => {
        begins(this, batch);
        if (service.on === 'loop') {
          process.spend(random.exponential(service.ms) * this.slowness);
          poolInto(version, batch, into);
          return undefined;
        }
        const ms = (service.ms + random.exponential(service.tailMs)) * this.slowness;
        return new Promise((resolve) => {
          process.at(process.time + ms, 'sockets', () => {
            poolInto(version, batch, into);
            resolve();
          });
        });
      },
    };
  }

  #stats(server: ShardServer): ShardStats {
    return {
      shard: this.shard,
      model: 'simulated',
      plan: 'simulated',
      epoch: 0,
      kernels: 'simulated',
      state: server.state,
      ...NO_PEERS,
      replacedFiles: 0,
      uptimeMs: 0,
      ...server.counts,
      unseen: {},
      cpuUserUs: 0,
      cpuSystemUs: 0,
      rssBytes: 0,
      tableBytes: 0,
      residentBytes: null,
      hugePageBytes: null,
      lockedBytes: null,
    };
  }
}

const u32 = (bytes: Uint8Array): Uint32Array => new Uint32Array(Uint8Array.from(bytes).buffer);

function bagsOf(segments: Uint8Array): number {
  const fields = u32(segments);
  let bags = 0;
  for (let at = 3; at < fields.length; at += SEGMENT_FIELDS) bags += fields[at] as number;
  return bags;
}

/** Requests are known by it. */
export const firstId = ({ indices }: Pick<SparseBatch, 'indices'>): number =>
  new DataView(indices.buffer, indices.byteOffset, indices.byteLength).getInt32(0, true);

/** As an engine does: from the bytes of a batch. */
function poolInto(version: number, batch: SparseBatch, into: Float32Array): void {
  const [segments, offsets, indices] = [u32(batch.segments), u32(batch.offsets), new Int32Array(u32(batch.indices).buffer)];
  let [bag, at] = [0, 0];
  for (let segment = 0; segment < segments.length; segment += SEGMENT_FIELDS) {
    const [table = 0, part = 0, parts = 1] = segments.subarray(segment);
    for (let left = segments[segment + 3] as number; left > 0; left--, bag++) {
      for (let d = 0; d < DIM; d++) {
        let sum = 0;
        for (let id = offsets[bag] as number; id < (offsets[bag + 1] as number); id++)
          sum += rowValue(version, table, (indices[id] as number) * parts + part, d);
        into[at++] = sum;
      }
    }
  }
}
