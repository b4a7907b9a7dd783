import { join } from 'node:path';
import { type Cluster, launchCluster } from '../src/cluster/launch.js';
import { native } from '../src/engine/native.js';
import { modelHash } from '../src/model/hash.js';
import type { RpcCounts } from '../src/observe/counters.js';
import { makePlan } from '../src/plan/placement/strategies.js';
import { profileFromSpec } from '../src/plan/profile/profile-from-spec.js';
import type { PredictRequest } from '../src/predictor/predictor.js';
import type { ConnectOptions } from '../src/predictor/sharded.js';
import type { SecurityOptions } from '../src/rpc/transport/security.js';
import { KeyFiles } from '../test/chaos/key-files.js';
import { type NetsShape, netsRequest, repeatedBags, writeNetsModel } from '../test/reference/nets-model.js';
import { random } from '../test/reference/small-model.js';
import { type Line, median, type Suite } from './suite.js';
import { connectTarget, measure, type Round, type Target } from './targets.js';

/** Two nets in order with half of their bags of the user, as DRM1 and DRM2 of the paper have it; small tables, as only RPCs are compared. */
const SHAPE: NetsShape = { seed: 77, nets: 2, tablesPerNet: 16, rows: 20_000, dim: 64, hidden: 256 };
const QUICK_SHAPE: NetsShape = { ...SHAPE, rows: 500, dim: 16, hidden: 32 };
const SHARDS = 8;
const [REQUESTS, QUICK_REQUESTS] = [50, 5];

interface Side {
  readonly name: string;
  readonly options: Omit<ConnectOptions, 'bundle'>;
  /** Asks shards of its own, over CURVE with an allow-list of one key. */
  readonly encrypted?: true;
  /** What the same request looks like here. */
  readonly given?: (request: PredictRequest) => PredictRequest;
}

/** Two ways of asking for the same scores, in turn. */
interface Comparison {
  readonly name: string;
  readonly description: string;
  readonly items: number;
  readonly poolingFactor: number;
  readonly minIds?: number;
  /** Different bags of a bag layer given per item; all when left out. */
  readonly differentBags?: number;
  readonly sides: readonly [Side, Side];
}

const dedupSides: Comparison['sides'] = [
  { name: 'off', options: {} },
  { name: 'on', options: { dedup: true } },
];
const COMPARISONS: readonly Comparison[] = [
  {
    name: 'modes',
    description: 'a request of 4 batches: one RPC per shard, against one per batch, net and shard',
    items: 128,
    poolingFactor: 4,
    sides: [
      { name: 'coalesced', options: {} },
      { name: 'paper', options: { rpc: 'paper', batchItems: 32 } },
    ],
  },
  {
    name: 'user',
    description: '1 user x 256 items, half the bags of the user: given once, against once per item',
    items: 256,
    poolingFactor: 4,
    sides: [
      { name: 'once', options: {} },
      { name: 'repeated', options: {}, given: repeatedBags },
    ],
  },
  {
    name: 'dedup-alike',
    description: '64 items with 8 different bags per layer: sent as given, against once each',
    items: 64,
    poolingFactor: 4,
    differentBags: 8,
    sides: dedupSides,
  },
  {
    name: 'dedup-different',
    description: '64 items with no two bags alike: what looking for them costs',
    items: 64,
    poolingFactor: 4,
    minIds: 2,
    sides: dedupSides,
  },
  {
    name: 'curve',
    description: 'a request of 4 batches: readable, against encrypted and authenticated by CURVE',
    items: 128,
    poolingFactor: 4,
    sides: [
      { name: 'plain', options: {} },
      { name: 'encrypted', options: {}, encrypted: true },
    ],
  },
];

interface RpcRound extends Round {
  /** Given per request: the rows that are pooled, unless bags are left out. */
  readonly ids: number;
  readonly rpcs: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
}

export const rpcSuite: Suite = {
  name: 'rpc',
  description: `how ${SHARDS} shards on this machine are asked for the bags of two nets: RPCs, bytes on the wire, P50, P99, CPU of all processes`,
  async *run({ quick, dir, rounds, wanted }) {
    const shape = quick ? QUICK_SHAPE : SHAPE;
    const bundle = join(dir, 'model');
    const { spec } = await writeNetsModel(bundle, shape);
    const plan = makePlan('capacity-balanced', spec, modelHash(spec), profileFromSpec(spec), { shards: SHARDS });
    const keys = keysIn(dir);
    const launch = (security: SecurityOptions): Promise<Cluster> =>
      launchCluster(plan, { bundle, ephemeralPorts: true, logLevel: 'error', security });
    const plain: Served = { cluster: await launch({}), options: { bundle } };
    let encrypted: Served | null = null;
    try {
      for (const comparison of COMPARISONS.filter(({ name }) => wanted.test(name))) {
        if (comparison.sides.some((side) => side.encrypted))
          encrypted ??= { cluster: await launch(keys.ofShards), options: { bundle, security: keys.ofMain } };
        const served = comparison.sides.map((side) => (side.encrypted ? (encrypted as Served) : plain));
        const samples = await compare(comparison, shape, served, quick ? QUICK_REQUESTS : REQUESTS, rounds);
        yield* linesOf(comparison, samples);
      }
    } finally {
      await Promise.all([plain.cluster.stop(), encrypted?.cluster.stop()]);
    }
  },
};

/** Shards, and how they are reached. */
interface Served {
  readonly cluster: Cluster;
  readonly options: ConnectOptions;
}

function keysIn(dir: string): { readonly ofShards: SecurityOptions; readonly ofMain: SecurityOptions } {
  const files = new KeyFiles(dir);
  const [shard, main] = [files.make('shard'), files.make('main')];
  return {
    ofShards: { key: shard.file, allow: files.list('allowed', [main.publicKey]) },
    ofMain: { key: main.file, shardKey: files.list('shards', [shard.publicKey]) },
  };
}

/** Rounds of both sides in turn; the first warms up, and checks that the scores are the same bits. */
async function compare(
  { sides, ...comparison }: Comparison,
  shape: NetsShape,
  served: readonly Served[],
  numRequests: number,
  rounds: number,
): Promise<RpcRound[][]> {
  const next = random(101);
  const targets: Target[] = [];
  const samples = sides.map((): RpcRound[] => []);
  try {
    for (const [side, { name, options }] of sides.entries()) {
      const { cluster, options: reached } = served[side] as Served;
      targets.push(await connectTarget(name, cluster, { ...reached, ...options }));
    }
    // The same ones in all rounds: making them is garbage, which would be collected while others are timed.
    const requests = Array.from({ length: numRequests }, () => netsRequest(shape, next, comparison.items, comparison));
    const asked = sides.map(({ given = (request) => request }) => requests.map(given));
    for (let round = -1; round < rounds; round++) {
      if (round < 0) await checkSameBits(targets, asked);
      for (const side of round % 2 === 0 ? [0, 1] : [1, 0]) {
        const measured = await measureRpcs(targets[side] as Target, asked[side] as PredictRequest[]);
        if (round >= 0) samples[side]?.push(measured);
      }
    }
  } finally {
    for (const target of targets) await target.close();
  }
  return samples;
}

async function measureRpcs(target: Target, requests: readonly PredictRequest[]): Promise<RpcRound> {
  const before = target.predictor.stats();
  const round = await measure(target, requests);
  const after = target.predictor.stats();
  const perRequest = (name: keyof RpcCounts): number => (after[name] - before[name]) / requests.length;
  const idsOf = ({ sparse }: PredictRequest): number => Object.values(sparse).reduce((sum, { indices }) => sum + indices.length, 0);
  const ids = requests.reduce((sum, request) => sum + idsOf(request), 0) / requests.length;
  return { ...round, ids, rpcs: perRequest('sent'), bytesSent: perRequest('bytesSent'), bytesReceived: perRequest('bytesReceived') };
}

async function checkSameBits(targets: readonly Target[], asked: readonly PredictRequest[][]): Promise<void> {
  for (const [n, request] of (asked[0] ?? []).entries()) {
    const [one, two] = await Promise.all(
      targets.map(({ predictor }, side) => predictor.predict(asked[side]?.[n] ?? request, { deadlineMs: 10_000 })),
    );
    const bytes = (scores: Float32Array | undefined): Buffer => Buffer.from(scores?.buffer ?? new ArrayBuffer(0));
    if (Buffer.compare(bytes(one?.scores), bytes(two?.scores)) !== 0)
      throw new Error(`${targets.map(({ name }) => name).join(' and ')} give different scores for request ${n}`);
  }
}

function* linesOf({ name, sides, items, description }: Comparison, samples: readonly RpcRound[][]): Generator<Line> {
  const metrics: readonly [keyof RpcRound, string, string][] = [
    ['rpcs', 'RPCs per request', 'RPCs'],
    ['ids', 'ids given per request', 'ids'],
    ['bytesSent', 'bytes sent per request', 'B'],
    ['bytesReceived', 'bytes received per request', 'B'],
    ['p50', 'p50', 'ms'],
    ['p99', 'p99', 'ms'],
    ['cpuMs', 'CPU per request, all processes', 'ms'],
  ];
  for (const [key, metric, unit] of metrics) {
    for (const [side, own] of samples.entries()) {
      const values = own.map((round) => round[key]);
      const overFirst = median(values.map((value, round) => value / (samples[0]?.[round]?.[key] as number)));
      const label = sides[side]?.name ?? '';
      yield {
        ...{ suite: 'rpc', case: `${name}-${label}-${key}`, metric, unit, value: median(values) },
        params: { items, description, against: side === 0 ? description : `${overFirst.toFixed(2)} x ${sides[0].name}` },
        ...{ peer: null, ratio: null, spread: null, isa: native.isa, threads: 1 },
        residency: 'populate',
      };
    }
  }
}
