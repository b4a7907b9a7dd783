import { getEventListeners } from 'node:events';
import { ERROR_CODES, TerabagError } from '../../src/errors.js';
import type { Pipeline } from '../../src/predictor/pipeline.js';
import type { Prediction } from '../../src/predictor/predictor.js';
import { ShardClient } from '../../src/rpc/client.js';
import type { Answer } from '../../src/rpc/replicas/call.js';
import { type ServedVersion, stampOf } from '../../src/rpc/version.js';
import { Accounts, type ClientTotals } from './accounts.js';
import { CheckedBuffers } from './buffers.js';
import { SimulatedEndpoints } from './endpoints.js';
import { applyFault, type FaultKind, type FaultyWorld } from './faults.js';
import { guardRealTime, keepPoolsOutside } from './guards.js';
import { Network, Path, type SimulatedClient } from './network.js';
import { isRight, type PredictedRequest, pipelineOf, predictedRequest, reuse } from './predictor.js';
import { running, SimulatedProcess } from './process.js';
import { SeededRandom } from './random.js';
import { type Asked, answerBytesOf, batchOf, vectorsOf } from './reference.js';
import { type Machines, Replica } from './replica.js';
import type { PlannedRequest, Scenario } from './scenario.js';
import { Scheduler } from './scheduler.js';
import { Trace } from './trace.js';
import { type Violation, Violations } from './violations.js';

/** Promised: a request that is asked so many ms after all faults have healed is answered right. */
const RECOVERY_MS = 2500;
/** Until then requests are watched. */
const PROBED_MS = 500;
const PROBE_EVERY_MS = 100;
const PROBE_MS = 500;
/** What waited until all was healed has ended by then. */
const QUIET_MS = RECOVERY_MS + PROBE_MS + PROBE_EVERY_MS;
/** So long before all is healed, requests are made that wait for that. */
const PATIENT_MS = 20;
/** Shards drain for at most so long, and all of them are gone in twice that. */
const DRAIN_MS = 1000;
/** A request may be later than its deadline by so much: what a timer takes that is set again for less than a millisecond, and a turn of the event loop. */
const LATE_MS = 2.5;
const EXPECTED = 0;
/** By number: the expected one, one of another model, and one of another plan. */
const SERVED: readonly ServedVersion[] = [
  { modelHash: 'a1'.repeat(32), planHash: 'b1'.repeat(32), epoch: 7 },
  { modelHash: 'a2'.repeat(32), planHash: 'b1'.repeat(32), epoch: 7 },
  { modelHash: 'a1'.repeat(32), planHash: 'b2'.repeat(32), epoch: 8 },
];
const KERNELS = 'simulated:1';

/** What became of a simulation. */
export interface Outcome {
  readonly violation: Violation | null;
  readonly hash: string;
  readonly trace: readonly string[];
  readonly requests: number;
  readonly answered: number;
  /** By code. */
  readonly errors: Readonly<Record<string, number>>;
  readonly faults: number;
  readonly messages: number;
  readonly steps: number;
  readonly virtualMs: number;
  /** After all was healed, the latest request that failed was asked so late. */
  readonly recoveredMs: number;
}

/** One call of pool. */
interface Request {
  readonly shard: number;
  /** Virtual time. */
  deadlineAt: number;
  readonly abort: AbortController | null;
  abortedAt: number | null;
  ended: boolean;
}

/** Runs a scenario to its end, or to the first violation. */
export async function simulate(scenario: Scenario, record = false): Promise<Outcome> {
  const simulation = new Simulation(scenario, record);
  return simulation.run();
}

class Simulation implements FaultyWorld {
  readonly #scheduler = new Scheduler(() => {
    running.process = null;
  });
  readonly #random: SeededRandom;
  readonly #unguard: () => void;
  readonly #letPoolsIn: () => void;
  readonly #pipeline: Pipeline | null;
  readonly #endpoints: SimulatedEndpoints[];
  readonly #trace: Trace;
  readonly #violations = new Violations(() => this.#scheduler.now);
  readonly #buffers = new CheckedBuffers(this.#violations);
  readonly #accounts: Accounts;
  readonly #network: Network;
  readonly #main: SimulatedProcess;
  readonly #replicas: Replica[][];
  readonly #clients: ShardClient[];
  readonly #clientOf = new WeakMap<SimulatedClient, number>();
  readonly #requests = new Map<number, Request>();
  readonly #inFlight = new Set<Request>();
  readonly #errors: Record<string, number> = {};
  /** By shard. */
  readonly #asked: number[] = [];
  #answered = 0;
  #calls = 0;
  #nextNumber: number;
  #healedAt = Number.POSITIVE_INFINITY;
  #closed = false;
  #refusingConnectionsUntil = 0;
  #port = 9000;
  #statsAsked = 0;
  /** When each was asked after all was healed, by number. */
  readonly #probes = new Map<number, number>();
  /** When each was asked that has the time to wait until all is healed, by number. */
  readonly #patient = new Map<number, number>();
  #recoveredMs = 0;
  #done = false;
  #drained = false;

  constructor(
    private readonly scenario: Scenario,
    record: boolean,
  ) {
    const { seed, settings } = scenario;
    this.#unguard = guardRealTime(this.#violations, new SeededRandom(seed, 'chance'));
    this.#random = new SeededRandom(seed, 'run');
    this.#trace = new Trace(this.#scheduler, record);
    this.#accounts = new Accounts({
      violations: this.#violations,
      trace: this.#trace,
      ...{ version: SERVED[EXPECTED] as ServedVersion, stamp: stampOf(SERVED[EXPECTED] as ServedVersion) },
      maxInFlight: settings.maxInFlight,
      main: () => this.#main,
      now: () => this.#scheduler.now,
      asked: (shard) => this.#asked[shard] ?? 0,
      resent: (shard) => this.#clients[shard]?.counts.resent ?? 0,
      deadlineOf: (request) => this.#requests.get(request)?.deadlineAt ?? Number.POSITIVE_INFINITY,
      clientOf: (client) => this.#clientOf.get(client) as number,
      shards: settings.shards,
    });
    const { highWaterMark, sockets, pauses } = settings;
    this.#network = new Network({
      ...{ scheduler: this.#scheduler, random: new SeededRandom(seed, 'network'), trace: this.#trace, observer: this.#accounts },
      ...{ highWaterMark, sockets },
    });
    this.#nextNumber = 1 + Math.max(0, ...scenario.requests.map(({ number }) => number));
    this.#main = new SimulatedProcess({
      ...{ name: 'main', scheduler: this.#scheduler, violations: this.#violations, random: new SeededRandom(seed, 'main'), pauses },
      originMs: this.#random.magnitude(1, 1e9),
      rate: 1 + this.#random.between(-5e-5, 5e-5),
    });
    this.#replicas = Array.from({ length: settings.shards }, (_, shard) => this.#makeReplicas(shard));
    this.#endpoints = this.#replicas.map(
      (replicas, shard) =>
        new SimulatedEndpoints(this.#main, new SeededRandom(seed, `endpoints ${shard}`), () => replicas.map(({ endpoint }) => endpoint)),
    );
    running.process = this.#main;
    const { predictor } = settings;
    this.#letPoolsIn = predictor === null ? () => undefined : keepPoolsOutside();
    this.#clients = this.#endpoints.map((endpoints, shard) => this.#makeClient(shard, endpoints));
    this.#pipeline =
      predictor === null
        ? null
        : pipelineOf({
            ...{ ...predictor, shards: this.#clients, process: this.#main, violations: this.#violations },
            random: new SeededRandom(seed, 'predictor'),
          });
  }

  async run(): Promise<Outcome> {
    const unwatch = this.#buffers.watch();
    const onRejection = (reason: unknown): void => this.#violations.add('unhandled-rejection', String((reason as Error)?.stack ?? reason));
    process.on('unhandledRejection', onRejection);
    try {
      this.#plan();
      await this.#scheduler.run(() => this.#done || this.#violations.first !== null);
      this.#violations.hold('liveness', this.#done, () => 'nothing happens any more, and the simulation has not ended');
    } finally {
      process.off('unhandledRejection', onRejection);
      unwatch();
      this.#letPoolsIn();
      this.#unguard();
      running.process = null;
      for (const client of this.#clients) client.close();
    }
    return this.#outcome();
  }

  // What faults do.

  get now(): number {
    return this.#scheduler.now;
  }

  replica(shard: number, replica: number): Replica {
    // Of a scenario that was made smaller, which has fewer of both.
    const replicas = this.#replicas[shard % this.#replicas.length] as Replica[];
    return replicas[replica % replicas.length] as Replica;
  }

  later(ms: number, call: () => void): void {
    this.#scheduler.at(this.now + ms, () => {
      if (this.now < this.#healedAt) call();
    });
  }

  stallMain(ms: number): void {
    this.#main.stall(ms);
  }

  restart(replica: Replica, how: 'kill' | 'host' | 'terminate', ms: number, version: number): void {
    if (replica.process === null || replica.draining) return;
    if (how === 'terminate') replica.terminate(Math.min(ms, DRAIN_MS));
    else {
      if (how === 'host') replica.path.hostUp = false;
      replica.kill();
    }
    this.later(ms, () => this.#startAgain(replica, version));
  }

  abortAll(): void {
    this.#main.perform('sockets', () => {
      for (const request of [...this.#inFlight]) this.#abort(request);
    });
  }

  burst(shard: number, count: number, deadlineMs: number): void {
    this.#main.perform('sockets', () => {
      for (let request = 0; request < count; request++)
        this.#ask({ number: this.#nextNumber++, at: this.now, shard, deadlineMs, abortAfterMs: null, holdMs: 0 });
    });
  }

  refuseConnections(ms: number): void {
    this.#refusingConnectionsUntil = this.now + ms;
  }

  askStats(shard: number, ms: number): void {
    this.#main.perform('sockets', () => {
      this.#statsAsked++;
      const dueAt = this.#main.time + ms;
      const ended = (): void => {
        this.#statsAsked--;
        const late = this.#main.lateBy(dueAt);
        this.#violations.hold('deadline', late <= LATE_MS, () => `stats of shard ${shard} are ${late} ms late`);
      };
      this.#clients[shard]?.stats(ms).then(ended, ended);
    });
  }

  /** Another address on the same host. */
  move(replica: Replica): void {
    if (replica.process === null || replica.draining) return;
    replica.terminate(DRAIN_MS);
    replica.endpoint = `${replica.endpoint.slice(0, replica.endpoint.lastIndexOf(':'))}:${++this.#port}`;
    this.#network.addEndpoint(replica.endpoint, replica.path);
    this.#startAgain(replica, EXPECTED);
    this.#endpoints.forEach((endpoints, shard) => {
      if (this.#replicas[shard]?.includes(replica)) endpoints.moved();
    });
  }

  // The way of a simulation.

  #plan(): void {
    const { settings, faults, requests } = this.scenario;
    for (const replica of this.#replicas.flat()) replica.start(EXPECTED);
    for (const request of requests) this.#scheduler.at(request.at, () => this.#main.perform('sockets', () => this.#ask(request)));
    for (const fault of faults)
      this.#scheduler.at(fault.at, () => {
        this.#trace.add('fault', fault.kind, fault.shard, fault.replica, fault.ms, fault.x);
        applyFault(this, fault);
      });
    this.#scheduler.at(settings.durationMs - PATIENT_MS, () => this.#askPatiently());
    this.#scheduler.at(settings.durationMs, () => {
      if (settings.closesEarly) this.#main.perform('sockets', () => this.#close());
      else this.#heal();
    });
  }

  #makeReplicas(shard: number): Replica[] {
    const { settings, seed } = this.scenario;
    const machines: Machines = {
      ...{ scheduler: this.#scheduler, trace: this.#trace, violations: this.#violations, buffers: this.#buffers, network: this.#network },
      ...{ service: settings.service, pauses: settings.pauses, random: new SeededRandom(seed, `shard ${shard}`) },
      server: { maxInFlight: settings.maxInFlight, maxPooling: settings.maxPooling },
      begins: (replica, batch) => this.#accounts.begins(replica, batch),
      identify: (version) => ({ version: SERVED[version] as ServedVersion, kernels: KERNELS }),
    };
    return Array.from({ length: settings.replicas }, (_, number) => {
      const path = new Path(`host-${shard}-${number}`, settings);
      const endpoint = `tcp://10.0.${shard}.${number}:9000`;
      this.#network.addEndpoint(endpoint, path);
      return new Replica(machines, `shard-${shard}`, `shard-${shard}-${number}`, path, endpoint);
    });
  }

  #makeClient(shard: number, endpoints: SimulatedEndpoints): ShardClient {
    const refusal = (): Error | null =>
      this.#refusingConnectionsUntil > this.now ? new TerabagError('overloaded', 'no file descriptors', { reason: 'EMFILE' }) : null;
    const connect = this.#network.connector(this.#main, (client) => this.#clientOf.set(client, shard), refusal);
    const expected = { name: `shard-${shard}`, endpoints, version: SERVED[EXPECTED] as ServedVersion, kernels: KERNELS };
    const random = new SeededRandom(this.scenario.seed, `client ${shard}`);
    return new ShardClient(expected, connect, { clock: this.#main, random: () => random.next(), hedging: this.scenario.settings.hedging });
  }

  #ask(planned: PlannedRequest): void {
    if (this.#closed) return;
    const { number, shard, deadlineMs, abortAfterMs, holdMs } = planned;
    const deadline = this.#main.now() + deadlineMs;
    const request: Request = {
      ...{ shard, deadlineAt: this.#main.globalAt(deadline), abortedAt: null, ended: false },
      abort: abortAfterMs === null ? null : new AbortController(),
    };
    this.#inFlight.add(request);
    this.#calls++;
    this.#trace.add('main', 'asks', number, shard, deadlineMs);
    if (this.#pipeline === null) this.#pool(number, request, deadline, holdMs);
    else this.#predict(this.#pipeline, number, request, deadlineMs);
    if (abortAfterMs !== null) this.#main.at(this.#main.time + abortAfterMs, 'sockets', () => this.#abort(request));
  }

  #expect(key: number, shard: number, request: Request): void {
    this.#requests.set(key, request);
    this.#asked[shard] = (this.#asked[shard] ?? 0) + 1;
  }

  #pool(number: number, request: Request, deadlineAt: number, holdMs: number): void {
    const { shard } = request;
    const asked = this.#askedOf(number);
    this.#expect(number, shard, request);
    const batch = batchOf(asked);
    const signal = request.abort?.signal ?? null;
    const answer = (this.#clients[shard] as ShardClient).pool(batch, { deadlineAt, answerBytes: answerBytesOf(asked), signal });
    // It is encoded: the caller's memory is used again.
    for (const bytes of [batch.segments, batch.indices, batch.offsets]) bytes.fill(0xee);
    answer.then(
      (answer) => this.#succeeded(number, request, asked, answer, holdMs),
      (error: unknown) => this.#failed(number, request, error),
    );
  }

  #predict(pipeline: Pipeline, number: number, request: Request, deadlineMs: number): void {
    // The first id of what a shard is asked tells whose it is.
    const keys = this.#clients.map((_, shard) => 2 * number + shard);
    keys.forEach((key, shard) => this.#expect(key, shard, request));
    const given = predictedRequest(new SeededRandom(number, 'request'), keys);
    const prediction = pipeline.predict(given.request, { deadlineMs, signal: request.abort?.signal ?? null });
    reuse(given);
    // It counts from somewhere within the call, which may itself take its time.
    request.deadlineAt = this.#main.globalAt(this.#main.now() + deadlineMs);
    prediction.then(
      (prediction) => this.#predicted(number, request, given, prediction),
      (error: unknown) => this.#failed(number, request, error),
    );
  }

  #predicted(number: number, request: Request, given: PredictedRequest, prediction: Prediction): void {
    this.#end(number, request, prediction.degraded ? 'degraded' : 'answered');
    if (prediction.degraded) this.#checkDegraded(number, prediction);
    else this.#answered++;
    this.#violations.hold('abort', request.abortedAt === null, () => `request ${number} is answered after it was aborted`);
    const right = isRight(given, prediction, EXPECTED);
    this.#violations.hold(
      'answer',
      right,
      () => `request ${number} is answered with [${prediction.scores}], missing ${prediction.missingTables}`,
    );
  }

  #checkDegraded(number: number, { missingTables = [] }: Prediction): void {
    this.#errors['degraded'] = (this.#errors['degraded'] ?? 0) + 1;
    const { predictor, spared } = this.scenario.settings;
    const allowed = predictor?.onShardFailure === 'default-embedding' && missingTables.length > 0;
    this.#violations.hold('degraded', allowed, () => `request ${number} is degraded, and nobody allowed that: missing ${missingTables}`);
    this.#violations.hold('failover', !spared, () => `request ${number} is degraded: missing ${missingTables}`);
    const probed = this.#probes.get(number);
    if (probed !== undefined) this.#probeFailed(probed, new Error(`degraded, missing ${missingTables}`));
  }

  /** Some bags of two tables; the first id is the request's number. */
  #askedOf(number: number): Asked[] {
    const random = new SeededRandom(number, 'ids');
    const rows = (): number[] => Array.from({ length: random.below(4) }, () => random.uint32() >>> 1);
    const bags = Array.from({ length: 1 + random.below(3) }, rows);
    bags[0] = [number, ...rows()];
    return [
      { table: 0, bags },
      { table: 1 + random.below(2), bags: Array.from({ length: random.below(3) }, rows) },
    ];
  }

  #abort(request: Request): void {
    if (request.ended || request.abort === null || request.abortedAt !== null) return;
    request.abortedAt = this.#main.time;
    request.abort.abort();
  }

  /** What the accounts know a request by. */
  #keysOf(number: number): readonly number[] {
    return this.#pipeline === null ? [number] : this.#clients.map((_, shard) => 2 * number + shard);
  }

  #end(number: number, request: Request, what: string): void {
    this.#trace.add('main', what, number);
    request.ended = true;
    if (!this.#closed) for (const key of this.#keysOf(number)) this.#accounts.ended(key);
    this.#inFlight.delete(request);
    const late = this.#main.lateBy(request.deadlineAt);
    this.#violations.hold('deadline', late <= LATE_MS, () => `request ${number} ended (${what}) ${late} ms after its deadline`);
    const listening = request.abort === null ? 0 : getEventListeners(request.abort.signal, 'abort').length;
    this.#violations.hold('leak', listening === 0, () => `somebody still listens to the signal of request ${number}, which has ended`);
    if (request.abortedAt !== null) {
      const lateMs = this.#main.lateBy(request.abortedAt);
      this.#violations.hold('abort', lateMs <= LATE_MS, () => `request ${number} ended (${what}) ${lateMs} ms after it was aborted`);
    }
  }

  #succeeded(number: number, request: Request, asked: readonly Asked[], { pooled, message }: Answer, holdMs: number): void {
    this.#end(number, request, 'answered');
    this.#answered++;
    this.#violations.hold('abort', request.abortedAt === null, () => `request ${number} is answered after it was aborted`);
    this.#checkAnswer(number, asked, pooled);
    if (holdMs === 0) {
      message.release();
      return;
    }
    this.#main.at(this.#main.time + holdMs, 'sockets', () => {
      this.#checkAnswer(number, asked, pooled);
      message.release();
    });
  }

  #checkAnswer(number: number, asked: readonly Asked[], pooled: Uint8Array): void {
    const expected = vectorsOf(EXPECTED, asked);
    const given = new Float32Array(Uint8Array.from(pooled).buffer, 0, Math.floor(pooled.byteLength / 4));
    const right = pooled.byteLength === expected.byteLength && expected.every((value, at) => value === given[at]);
    this.#violations.hold('answer', right, () => `request ${number} is answered with [${given}], right is [${expected}]`);
  }

  #failed(number: number, request: Request, error: unknown): void {
    const code = error instanceof TerabagError ? error.code : `untyped: ${String(error)}`;
    this.#end(number, request, code);
    this.#errors[code] = (this.#errors[code] ?? 0) + 1;
    if (this.scenario.settings.spared && !this.#closed)
      this.#violations.add('failover', `request ${number} fails with ${code}: ${(error as Error).message}`);
    const inVain =
      (code === 'deadline_exceeded' || code === 'shard_unavailable') &&
      request.deadlineAt - this.#main.time < LATE_MS &&
      this.#isOwedAnswer(number);
    this.#violations.hold(
      'liveness',
      !inVain,
      () => `request ${number} waited until all was healed, and fails: ${(error as Error).message}`,
    );
    const probed = this.#probes.get(number);
    if (probed !== undefined) this.#probeFailed(probed, error);
    const allowed = this.#mayFail(request, code);
    this.#violations.hold('error-code', allowed, () => `request ${number} fails with ${code}: ${(error as Error).message}`);
  }

  /** It waited until all was healed. An answer that a false shard keeps, or sends as something that nobody can read, cannot be told from one that takes long. */
  #isOwedAnswer(number: number): boolean {
    const askedAt = this.#patient.get(number);
    return askedAt !== undefined && this.#replicas.flat().every(({ path }) => path.liedAt < askedAt);
  }

  #mayFail({ abortedAt }: Request, code: string): boolean {
    if (abortedAt !== null || code === 'aborted') return abortedAt !== null && code === 'aborted';
    const any = (kind: FaultKind): boolean => this.scenario.faults.some((fault) => fault.kind === kind);
    // A shard that lies may say anything but the right vectors' place.
    if (any('false') && ERROR_CODES.some((known) => known === code)) return code !== 'closed' || this.#closed;
    switch (code) {
      case 'deadline_exceeded':
      case 'overloaded':
      case 'shard_unavailable':
        return true;
      case 'closed':
        return this.#closed;
      case 'model_mismatch':
      case 'version_skew':
        return any('other version');
      default:
        return false;
    }
  }

  #startAgain(replica: Replica, version: number): void {
    replica.path.hostUp = true;
    // It may still drain.
    if (replica.process === null) replica.start(version);
    else this.later(10, () => this.#startAgain(replica, version));
  }

  /** Everything works from now on. */
  #heal(): void {
    this.#healedAt = this.now;
    this.#trace.add('fault', 'all is healed');
    this.#refusingConnectionsUntil = 0;
    this.#main.wake();
    for (const replica of this.#replicas.flat()) {
      replica.path.heal();
      replica.slowness = 1;
      replica.proceed();
      replica.process?.wake();
      if (replica.process === null || replica.version !== EXPECTED || replica.draining) {
        replica.kill();
        replica.start(EXPECTED);
      }
    }
    const [from, to] = this.scenario.settings.quiet ? [QUIET_MS, QUIET_MS + PROBED_MS] : [0, RECOVERY_MS + PROBED_MS];
    for (let asked = from; asked <= to; asked += PROBE_EVERY_MS) this.#scheduler.at(this.now + asked, () => this.#probe(asked));
    this.#scheduler.at(this.now + to + PROBE_MS, () => this.#main.perform('sockets', () => this.#close()));
  }

  /** Requests while all may be broken, which have the time to wait until it is healed. */
  #askPatiently(): void {
    for (let shard = 0; shard < this.#clients.length; shard++) {
      const number = this.#nextNumber++;
      this.#patient.set(number, this.now);
      const deadlineMs = PATIENT_MS + RECOVERY_MS + PROBE_MS;
      this.#main.perform('sockets', () => this.#ask({ number, at: this.now, shard, deadlineMs, abortAfterMs: null, holdMs: 0 }));
    }
  }

  /** Asks each shard for vectors, so long after all was healed. */
  #probe(afterMs: number): void {
    for (let shard = 0; shard < this.#clients.length; shard++) {
      const number = this.#nextNumber++;
      this.#probes.set(number, afterMs);
      this.#main.perform('sockets', () => this.#ask({ number, at: this.now, shard, deadlineMs: PROBE_MS, abortAfterMs: null, holdMs: 0 }));
    }
  }

  #probeFailed(afterMs: number, error: unknown): void {
    this.#recoveredMs = Math.max(this.#recoveredMs, afterMs);
    const why = (error as Error).message;
    this.#violations.hold(
      'liveness',
      afterMs < RECOVERY_MS,
      () => `a request fails that is asked ${afterMs} ms after all was healed: ${why}`,
    );
  }

  #close(): void {
    this.#closed = true;
    this.#trace.add('main', 'closes');
    void this.#pipeline?.close().then(() => {
      this.#drained = true;
    });
    for (const client of this.#clients) client.close();
    // Of answers that are held.
    this.#scheduler.at(this.now + DRAIN_MS, () => {
      for (const replica of this.#replicas.flat()) {
        if (replica.stopped) replica.kill();
        else replica.terminate(DRAIN_MS);
      }
    });
    this.#scheduler.at(this.now + 3 * DRAIN_MS, () => this.#finish());
  }

  #finish(): void {
    const { hold } = { hold: this.#violations.hold.bind(this.#violations) };
    hold('one-end', this.#inFlight.size === 0, () => `requests have not ended: ${this.#inFlight.size}`);
    hold('leak', this.#pipeline === null || this.#drained, () => 'the predictor has not closed');
    hold('one-end', this.#statsAsked === 0, () => `calls of stats have not ended: ${this.#statsAsked}`);
    hold('leak', this.#main.timers === 0, () => `timers of main are left: ${this.#main.timers}`);
    hold(
      'leak',
      this.#endpoints.every(({ closed }) => closed),
      () => 'a source of endpoints is not closed',
    );
    const lent = this.#buffers.lentTo(this.#main);
    hold('leak', lent === 0, () => `main has not released: ${lent} bytes`);
    this.#clients.forEach((client, shard) => this.#checkCounters(client, this.#accounts.totals[shard] as ClientTotals));
    this.#done = true;
  }

  #checkCounters({ name, counts }: ShardClient, totals: ClientTotals): void {
    for (const [counter, seen] of Object.entries(totals)) {
      const counted = counts[counter as keyof ClientTotals];
      this.#violations.hold('counters', counted === seen, () => `${name} counts ${counter}: ${counted}, seen ${seen}`);
    }
  }

  #outcome(): Outcome {
    return {
      violation: this.#violations.first,
      hash: this.#trace.hash,
      trace: this.#trace.lines,
      requests: this.#calls,
      answered: this.#answered,
      errors: this.#errors,
      faults: this.scenario.faults.length,
      messages: this.#accounts.messages,
      steps: this.#scheduler.steps,
      virtualMs: this.#scheduler.now,
      recoveredMs: this.#recoveredMs,
    };
  }
}
