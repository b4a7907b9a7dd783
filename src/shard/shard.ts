import type { Logger } from 'pino';
import { type Clock, systemClock } from '../clock.js';
import { isListenEndpoint } from '../endpoints/endpoint.js';
import { kernelFingerprint } from '../engine/kernels.js';
import type { Residency, ResidencyReport } from '../engine/residency.js';
import type { SparseEngine } from '../engine/sparse-engine.js';
import { engineTables, openTables } from '../engine/tables.js';
import { sumUnseen } from '../engine/unseen-counts.js';
import { TerabagError } from '../errors.js';
import { type Bundle, openBundle } from '../model/bundle.js';
import { checkPlan, checkPlanShape, type Plan, servedVersionOf } from '../plan/file/plan.js';
import { bundleOf, checkPublishedFor, placedParts } from '../plan/file/published.js';
import { AggregatedLog } from '../rpc/aggregated-log.js';
import { ShardServer } from '../rpc/server.js';
import type { ShardStats } from '../rpc/shard-stats.js';
import type { SecurityOptions } from '../rpc/transport/security.js';
import { listenOn } from '../rpc/transport/sockets.js';
import { type Listen, NO_PEERS, type ServerTransport } from '../rpc/transport/transport.js';
import { type ServedVersion, stampOf } from '../rpc/version.js';
import { TableFiles } from './table-files.js';

export interface ShardOptions {
  /** The shard must not go on serving, and is not drained: its rows may be wrong. Default: nothing happens but a line in the log. */
  readonly onUnservable?: (error: TerabagError) => void;
  readonly plan: Plan;
  /** Name of the shard in the plan. */
  readonly shard: string;
  /** The model's directory, the shard's published one, or the one that all shards were published to. */
  readonly bundle: string;
  /** Number among the shard's replicas, in the order of the plan's endpoints. Has to be given where it has several, and no endpoint is. */
  readonly replica?: number;
  /** Listens here instead of the replica's endpoint; tcp://127.0.0.1:* takes a free port. */
  readonly endpoint?: string;
  readonly log: Logger;
  /** Awaited when the tables are there, before it listens: where another process serves until then. */
  readonly beforeListening?: () => Promise<void>;
  readonly verify?: 'full' | 'size';
  /** How the tables are held in memory; default populate. */
  readonly residency?: Residency;
  /** Bytes of the tables brought into memory, and checked. */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
  /** Requests beyond are answered with overloaded; default 1024. */
  readonly maxInFlight?: number;
  /** Keys, and who may connect; default none, and then the shard listens on loopback or a Unix socket only. */
  readonly security?: SecurityOptions;
}

const DEFAULT_MAX_IN_FLIGHT = 1024;
/** Measuring walks the page tables of the process: milliseconds for a table of small pages, on a thread of the addon. */
const RESIDENCY_MS = 10_000;

/** Opens the shard's tables, listens, and serves until drained. */
export async function startShard(options: ShardOptions): Promise<Shard> {
  const { plan, shard, log } = options;
  checkPlanShape(plan);
  const placed = plan.shards.find(({ name }) => name === shard);
  if (placed === undefined) {
    throw new TerabagError('bad_plan', `no such shard in the plan: ${shard}; it has ${plan.shards.map(({ name }) => name).join(', ')}`, {
      shard,
    });
  }
  const endpoint = options.endpoint ?? endpointOf(placed, options.replica);
  if (!isListenEndpoint(endpoint)) {
    const message = `a shard listens on tcp://host:port (* takes every interface, or a free port) or ipc://path: ${endpoint}`;
    throw new TerabagError('invalid_argument', message, { field: 'endpoint', endpoint });
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
  const running = new Shard({
    ...{ name: shard, version: servedVersionOf(plan), kernels: kernelFingerprint(), engine, residency, log },
    maxInFlight: options.maxInFlight ?? DEFAULT_MAX_IN_FLIGHT,
    ...(options.security !== undefined && { security: options.security }),
  });
  const { onUnservable = () => undefined } = options;
  running.watch(bundle, (error) => {
    log.fatal({ code: error.code, ...error.details }, error.message);
    onUnservable(error);
  });
  try {
    await options.beforeListening?.();
    await running.listen(endpoint);
  } catch (error) {
    running.unwatch();
    engine.close();
    throw error;
  }
  const { tableBytes, residentBytes, hugePageBytes, lockedBytes } = running.stats();
  log.info(
    {
      shard,
      ...(options.replica !== undefined && { replica: options.replica }),
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

function endpointOf({ name, endpoints }: Plan['shards'][number], replica: number | undefined): string {
  const numbers = `0 to ${endpoints.length - 1}`;
  if (replica === undefined && endpoints.length > 1)
    throw new TerabagError('invalid_argument', `which replica this is has to be said of shard ${name}: ${numbers}`, {
      field: 'replica',
      shard: name,
    });
  const endpoint = endpoints[replica ?? 0];
  if (endpoint !== undefined) return endpoint;
  const message = `no such replica of shard ${name}, which has ${numbers}: ${replica}`;
  throw new TerabagError('invalid_argument', message, { field: 'replica', shard: name, replica: replica ?? 0 });
}

/** What a shard serves; the engine is the shard's from here on, and closed by its drain. */
export interface OpenShard {
  readonly name: string;
  readonly version: ServedVersion;
  readonly kernels: string;
  readonly engine: Pick<
    SparseEngine,
    'tableBytes' | 'residency' | 'unseen' | 'outputLength' | 'pool' | 'serveOn' | 'measureResidency' | 'close'
  >;
  /** As it was last measured. */
  residency: ResidencyReport | null;
  readonly maxInFlight: number;
  readonly log: Pick<Logger, 'info' | 'warn'>;
  readonly security?: SecurityOptions;
  readonly listen?: Listen;
  readonly clock?: Clock;
}

/** A sparse shard: holds tables, and serves them. */
export class Shard {
  readonly server: ShardServer;
  #transport: ServerTransport | null = null;
  #files: TableFiles | null = null;
  readonly #clock: Clock;
  readonly #startedAt: number;
  #measuredAt: number;
  readonly #tableBytes: number;
  readonly #residencyLog: AggregatedLog;

  constructor(private readonly options: OpenShard) {
    const { name, version, kernels, engine, maxInFlight, log, clock = systemClock } = options;
    this.#clock = clock;
    this.#startedAt = this.#measuredAt = clock.now();
    this.#tableBytes = engine.tableBytes;
    this.#residencyLog = new AggregatedLog(clock, (fields) => log.warn(fields, 'residency cannot be measured'));
    this.server = new ShardServer({
      ...{ shard: name, version, kernels, maxInFlight, clock, pooling: engine, stats: () => this.stats() },
      log: (level, fields, message) => log[level](fields, message),
    });
  }

  /** Looks after the files that its tables are mapped from, until it is drained; see TableFiles. */
  watch(bundle: Bundle, onChanged: (error: TerabagError) => void): void {
    const { engine, log } = this.options;
    const warn = (fields: Readonly<Record<string, unknown>>, message: string): void => log.warn(fields, message);
    this.#files = new TableFiles({ bundle, clock: this.#clock, mapped: engine.residency !== 'hugepages', onChanged, warn });
  }

  unwatch(): void {
    this.#files?.close();
  }

  get endpoint(): string {
    return this.#transport?.endpoint ?? '';
  }

  async listen(endpoint: string): Promise<void> {
    const { engine, version, listen = listenOn, log, security } = this.options;
    this.#transport = await listen(endpoint, (peer, message) => this.server.receive(peer, message), {
      onWarning: (message) => log.warn({ endpoint }, message),
      onGone: (peer) => this.server.forget(peer),
      ...(security !== undefined && { security }),
    });
    this.server.attach(this.#transport);
    // With residency map, pooling may wait for the disk, which the event loop cannot.
    const stamp = stampOf(version);
    if (engine.residency !== 'map') this.#transport.serve({ serveOn: (socket) => engine.serveOn(socket, stamp) });
  }

  /** Refuses new requests, lets those in flight end (for at most ms), and closes. */
  async drain(ms: number): Promise<void> {
    const { engine, log } = this.options;
    log.info({ inFlight: this.server.counts.inFlight }, 'draining');
    this.unwatch();
    await this.server.drain(ms);
    await this.#transport?.close();
    engine.close();
    log.info(this.server.counts, 'closed');
  }

  /** Measures again for the next caller when the figures are old. */
  #refreshResidency(): void {
    if (this.server.state === 'draining' || this.#clock.now() - this.#measuredAt < RESIDENCY_MS) return;
    this.#measuredAt = this.#clock.now();
    this.options.engine.measureResidency().then(
      (report) => {
        this.options.residency = report;
      },
      (error: unknown) => this.#residencyLog.add(TerabagError.from(error).message),
    );
  }

  stats(): ShardStats {
    this.#refreshResidency();
    const { name, version, kernels, engine, residency } = this.options;
    const { residentBytes = null, hugePageBytes = null, lockedBytes = null } = residency ?? {};
    const { user, system } = process.cpuUsage();
    return {
      shard: name,
      model: version.modelHash,
      plan: version.planHash,
      epoch: version.epoch,
      kernels,
      state: this.server.state,
      uptimeMs: this.#clock.now() - this.#startedAt,
      ...(this.#transport?.peerCounts() ?? NO_PEERS),
      ...this.server.counts,
      unseen: sumUnseen([engine]),
      cpuUserUs: user,
      cpuSystemUs: system,
      rssBytes: process.memoryUsage.rss(),
      replacedFiles: this.#files?.replaced ?? 0,
      tableBytes: this.#tableBytes,
      residentBytes,
      hugePageBytes,
      lockedBytes,
    };
  }
}
