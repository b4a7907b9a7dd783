import { FAULTS, type Fault, type FaultKind, type FaultSpec } from './faults.js';
import type { PredictorSettings } from './predictor.js';
import { SeededRandom } from './random.js';
import type { Service } from './replica.js';

/** A call of pool that is to come. */
export interface PlannedRequest {
  /** Which, among all of the simulation. */
  readonly number: number;
  readonly at: number;
  readonly shard: number;
  readonly deadlineMs: number;
  /** After so many ms its signal is aborted; null: it has none. */
  readonly abortAfterMs: number | null;
  /** How long its answer is held, ms. */
  readonly holdMs: number;
}

export interface Settings {
  readonly shards: number;
  readonly replicas: number;
  readonly hedging: boolean;
  /** The first replica of each shard is spared all faults, and so is main, which asks for little and has time. */
  readonly spared: boolean;
  /** Requests are those of a whole predictor; null: of one shard's client. */
  readonly predictor: PredictorSettings | null;
  readonly delayMs: number;
  readonly jitterMs: number;
  readonly service: Service;
  readonly maxInFlight: number;
  readonly maxPooling: number;
  readonly highWaterMark: number;
  readonly sockets: 'native' | 'zeromq.js';
  readonly pauses: { readonly chance: number; readonly maxMs: number };
  /** Virtual ms until all faults are healed. */
  readonly durationMs: number;
  /** Closes while requests are pending, instead of healing. */
  readonly closesEarly: boolean;
  /** Once all is healed, nothing is asked for a while: what waits has to be sent all the same. */
  readonly quiet: boolean;
}

/** All that a seed decides in advance. What it decides on the way (delays, service times) follows from the same seed. */
export interface Scenario {
  readonly seed: number;
  readonly settings: Settings;
  readonly faults: readonly Fault[];
  readonly requests: readonly PlannedRequest[];
}

/** Requests of a scenario. */
const REQUESTS = 2000;

/** What can become of a replica while another one is sound. */
const OF_REPLICAS: readonly FaultKind[] = [
  ...['reset', 'mute', 'partition', 'partition to', 'partition from', 'loss', 'delay', 'replay', 'crash', 'host crash'],
  ...['other version', 'terminate', 'stop', 'stall shard', 'slow'],
] as FaultKind[];

/** Swarm testing: each seed has some of the faults, at a rate of its own, so that no fault hides what others would find. */
export function scenarioOf(seed: number, numRequests = REQUESTS): Scenario {
  const random = new SeededRandom(seed, 'scenario');
  const durationMs = random.magnitude(800, 8000);
  const settings = settingsOf(random, durationMs, numRequests / durationMs);
  if (settings.spared)
    return { seed, settings, faults: faultsOf(random, settings), requests: patientRequests(random, settings, numRequests) };
  return { seed, settings, faults: faultsOf(random, settings), requests: requestsOf(random, settings, numRequests) };
}

/** Of what a replica can do, at most. */
const MOST_LOAD = 1.5;
const SPARED_LOAD = 0.3;

/** Of a shard that is asked for so many requests a millisecond: mostly with room, at times with too much to do. */
function serviceOf(random: SeededRandom, maxPooling: number, requestsPerMs: number, mostLoad: number): Service {
  const load = random.magnitude(0.02, mostLoad);
  const ms = random.magnitude(0.005, 0.1);
  if (random.chance(0.3)) return { on: 'loop', ms: Math.min(ms, load / requestsPerMs), tailMs: 0 };
  return { on: 'threads', ms, tailMs: Math.min(20, (load * maxPooling) / requestsPerMs) };
}

const predictorOf = (random: SeededRandom, spared: boolean): PredictorSettings => ({
  onShardFailure: random.pick(['error', 'default-embedding']),
  maxInFlight: spared ? 1024 : random.pick([8, 1024]),
  layersMs: random.pick([0, 0.1, 1]),
});

function settingsOf(random: SeededRandom, durationMs: number, requestsPerMs: number): Settings {
  const delayMs = random.magnitude(0.02, 10);
  const maxPooling = random.pick([1, 4, 16]);
  const spared = random.chance(0.15);
  return {
    ...{ shards: random.pick([1, 1, 2]), replicas: spared ? random.pick([2, 3]) : random.pick([1, 2, 2, 3]), spared },
    hedging: random.chance(0.8),
    delayMs,
    jitterMs: random.chance(0.3) ? 0 : delayMs * random.magnitude(0.05, 2),
    service: serviceOf(random, maxPooling, requestsPerMs, spared ? SPARED_LOAD : MOST_LOAD),
    maxInFlight: spared ? 1024 : random.pick([4, 64, 1024, 1024]),
    maxPooling,
    highWaterMark: spared ? 4096 : random.pick([2, 16, 256, 4096]),
    sockets: random.pick(['native', 'native', 'zeromq.js']),
    pauses:
      !spared && random.chance(0.3) ? { chance: random.magnitude(1e-5, 1e-3), maxMs: random.magnitude(1, 100) } : { chance: 0, maxMs: 1 },
    durationMs,
    predictor: random.chance(0.25) ? predictorOf(random, spared) : null,
    closesEarly: !spared && random.chance(0.1),
    quiet: random.chance(0.3),
  };
}

function faultsOf(random: SeededRandom, settings: Settings): Fault[] {
  const all = settings.spared ? OF_REPLICAS : (Object.keys(FAULTS) as FaultKind[]);
  const kinds = random.chance(0.05) ? [] : random.some(all, random.pick([0.1, 0.2, 0.5]));
  if (kinds.length === 0) return [];
  const perSecond = random.magnitude(1, 3000) / kinds.length;
  return kinds.flatMap((kind) => faultsOfKind(random, kind, perSecond, settings)).sort((a, b) => a.at - b.at);
}

function faultsOfKind(random: SeededRandom, kind: FaultKind, wanted: number, { durationMs, shards, replicas, spared }: Settings): Fault[] {
  const { longestMs, mostPerSecond = Number.POSITIVE_INFINITY }: FaultSpec = FAULTS[kind];
  // Many faults are short ones, or nothing would ever work; each replica has its own.
  const places = shards * replicas;
  const meanMs = 1000 / (Math.min(wanted, mostPerSecond) * places);
  const longest = spared ? longestMs : Math.max(0.2, Math.min(longestMs, meanMs * places));
  const faults: Fault[] = [];
  for (let at = random.exponential(meanMs); at < durationMs; at += random.exponential(meanMs)) {
    const place = { shard: random.below(shards), replica: spared ? 1 + random.below(replicas - 1) : random.below(replicas) };
    faults.push({ at, kind, ...place, ms: random.magnitude(0.1, longest), x: random.next() });
  }
  return faults;
}

/** Requests that nothing but the shards keeps from their answers. */
const patientRequests = (random: SeededRandom, settings: Settings, count: number): PlannedRequest[] =>
  requestsOf(random, settings, count).map((request) => ({ ...request, deadlineMs: random.between(2500, 4000), abortAfterMs: null }));

function requestsOf(random: SeededRandom, { durationMs, shards }: Settings, count: number): PlannedRequest[] {
  const requests: PlannedRequest[] = [];
  const bursts = random.chance(0.3);
  const [shortest, longest] = random.pick([
    [5, 50],
    [20, 300],
    [100, 1000],
    [2, 2000],
  ] as const);
  const aborts = random.pick([0, 0.01, 0.2]);
  const holds = random.pick([0, 0.05, 0.5]);
  let at = 0;
  for (let number = 0; number < count; number++) {
    if (!bursts || random.chance(0.02)) at += random.exponential(durationMs / count) * (bursts ? 50 : 1);
    const deadlineMs = random.magnitude(shortest, longest);
    requests.push({
      ...{ number, at, shard: random.below(shards), deadlineMs },
      abortAfterMs: random.chance(aborts) ? random.between(0, 1.5) * deadlineMs : null,
      holdMs: random.chance(holds) ? random.exponential(20) : 0,
    });
  }
  return requests;
}
