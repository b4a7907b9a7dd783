import { type Names, namesOf, systemNames } from '../endpoints/names.js';
import { resolveEndpoints } from '../endpoints/resolve.js';
import { kernelFingerprint } from '../engine/kernels.js';
import { openDensePart } from '../engine/open-dense-part.js';
import { engineTables, everyPart, openTables } from '../engine/tables.js';
import { anObject, oneOf, TerabagError } from '../errors.js';
import { type Bundle, openBundle } from '../model/bundle.js';
import type { ResolvedModel } from '../model/graph.js';
import { checkPlan, checkPlanShape, MAIN_SHARD, type Plan, servedVersionOf } from '../plan/file/plan.js';
import { bundleOf, checkPublishedFor } from '../plan/file/published.js';
import { checkRpcOptions, type RpcOptions } from '../plan/predict/rpc-mode.js';
import { type Connect, type ExpectedShard, ShardClient } from '../rpc/client.js';
import type { ReplicaStats } from '../rpc/shard-stats.js';
import { checkSecurity, type SecurityOptions } from '../rpc/transport/security.js';
import { connectWith } from '../rpc/transport/sockets.js';
import type { ServedVersion } from '../rpc/version.js';
import { wayOnMain } from './local.js';
import { type AskedShard, MainShard, type Way } from './main-shard.js';
import { roundsOfNets } from './modes/paper.js';
import { openUnlessAborted } from './opening.js';
import { SHARD_FAILURE_POLICIES, type ShardFailurePolicy } from './pipeline.js';
import type { Predictor, PredictorOptions } from './predictor.js';
import { roundOfPlan } from './rounds.js';
import { shown } from './shown.js';

/**
 * Scores have the bits of the local predictor while each table is whole on one shard (or on main), with every option but precision. A table that is
 * split by rows gives other bits, though the same ones every time: the rows of a bag are added in the order of its ids on each part, and then the
 * sums of the parts in their order. residency, verify and onProgress are about main's own tables.
 */
export interface ConnectOptions extends PredictorOptions, RpcOptions {
  /** The bundle's directory, or what was published of it: model.json and dense.safetensors are read, and those tables that the plan gives to main. */
  readonly bundle: string;
  /**
   * How long to wait for all shards, ms of 0 or more and below 2^31; default 10 s. With 0 it does not wait: readiness() tells which shards are not
   * there yet, and requests wait for them until their deadline.
   */
  readonly readyMs?: number;
  /**
   * Sends and pools bags that are alike within a request (a batch, with rpc paper) once; default false. `npm run bench -- rpc --case dedup`, 33
   * bag layers, half of them per item, 64 items over 8 shards of this machine: with 8 different bags a layer, 6 times fewer bytes, for 15 to 20 %
   * more P50 and CPU; with no two alike, as much for nothing. For networks that are slower than a loopback.
   */
  readonly dedup?: boolean;
  /**
   * What becomes of a request when a shard gives no vectors by a tenth of the deadline before it. error (default): it fails. default-embedding: the
   * bags of that shard's tables are taken for empty, and the answer says so: degraded and missingTables of Prediction.
   */
  readonly onShardFailure?: ShardFailurePolicy;
  /**
   * DNS servers that the plan's endpoints are resolved with, IP or IP:PORT. Default: as other programs of this machine do, with its file of hosts. What
   * cannot be resolved is told by onWarning.
   */
  readonly nameServers?: readonly string[];
  /** Keys of main and its shards; default none. Those that cannot be read anew are told by onWarning. */
  readonly security?: SecurityOptions;
  /** How shards are reached; default ZeroMQ. @internal */
  readonly transport?: Connect;
}

export interface ShardedPredictor extends Predictor {
  /** What it serves, and every shard that it asks: shardStats() tells what each process holds. */
  readonly version: ServedVersion;
  /**
   * What each process says of itself, in the order of the plan's shards and then of their endpoints: every replica has an entry, with its stats or the
   * error of one that is away, is of another version, or does not answer within 2 s. Rejects only when the predictor is closed.
   */
  shardStats(): Promise<ReplicaStats[]>;
}

const DEFAULT_READY_MS = 10_000;

/** Becomes the main shard of a plan: opens the tables that are its own, connects to all shards and waits until each is ready. */
export async function connect(plan: Plan, options: ConnectOptions): Promise<ShardedPredictor> {
  checkOptions(anObject('options', options));
  checkPlanShape(plan);
  return openUnlessAborted(options, (watched) => open(plan, { ...options, ...watched }));
}

async function open(plan: Plan, options: ConnectOptions): Promise<ShardedPredictor> {
  const tables = new Set(plan.tables.flatMap(({ table, parts }) => (parts.includes(MAIN_SHARD) ? [table] : [])));
  const bundle = await openBundle(await bundleOf(options.bundle, MAIN_SHARD), { tables, verify: 'later' });
  checkPlan(plan, bundle.spec, bundle.hash);
  checkPublishedFor(plan, MAIN_SHARD, bundle.spec, bundle.dir);
  // Without tables of its own, too: the dense weights are checked there.
  const own = await openTables(bundle, engineTables(bundle, everyPart(bundle)), options);
  const shards: AskedShard[] = [];
  let way: Way | null = null;
  let predictor: MainShard;
  const version = servedVersionOf(plan);
  try {
    way = await wayOf(plan, bundle, options);
    const kernels = kernelFingerprint();
    const reach = options.transport ?? connectWith(options.security, options.onWarning);
    const names = options.nameServers === undefined ? systemNames : namesOf(options.nameServers);
    for (const shard of plan.shards) {
      const client = clientOf(shard, { version, kernels }, { ...options, names, reach });
      shards.push({ client, tables: tablesOf(plan, shard.name) });
    }
    predictor = new MainShard(bundle, shards, own, { ...options, ...way, version, plan });
  } catch (error) {
    await way?.net.close();
    for (const { client } of shards) client.close();
    own.engine.close();
    throw error;
  }
  try {
    const { readyMs = DEFAULT_READY_MS } = options;
    if (readyMs > 0) await predictor.whenReady(readyMs);
  } catch (error) {
    await predictor.close();
    throw error;
  }
  return predictor;
}

function clientOf(
  { name, endpoints: given }: Plan['shards'][number],
  expected: { readonly version: ServedVersion; readonly kernels: string },
  { names, reach, onWarning }: ConnectOptions & { readonly names: Names; readonly reach: Connect },
): ShardClient {
  const endpoints = resolveEndpoints(given, {
    names,
    onFailure: () => void client.counts.unresolved++,
    onProblem: ({ message }) => onWarning?.(`shard ${name}: ${message}`),
  });
  const client = openClient({ name, endpoints, ...expected }, reach);
  return client;
}

function openClient(expected: ExpectedShard, connect: Connect): ShardClient {
  try {
    return new ShardClient(expected, connect);
  } catch (error) {
    expected.endpoints.close();
    throw error;
  }
}

const tablesOf = (plan: Plan, shard: string): string[] => plan.tables.flatMap(({ table, parts }) => (parts.includes(shard) ? [table] : []));

function checkOptions(options: ConnectOptions): void {
  const { readyMs = DEFAULT_READY_MS, onShardFailure = 'error', security } = options;
  oneOf('onShardFailure', onShardFailure, SHARD_FAILURE_POLICIES);
  if (typeof readyMs !== 'number' || !(readyMs >= 0) || readyMs > 2 ** 31 - 1)
    throw new TerabagError('invalid_argument', `readyMs has to be a number of 0 or more and below 2^31: ${shown(readyMs)}`, {
      field: 'readyMs',
    });
  if (security !== undefined) checkSecurity(security);
  checkRpcOptions(options);
}

async function wayOf(plan: Plan, bundle: Bundle, options: ConnectOptions): Promise<Way> {
  const { rpc = 'coalesced', dedup = false } = options;
  const model = bundle.model as ResolvedModel;
  if (rpc === 'coalesced') {
    if (plan.shards.length === 0 && !dedup) return wayOnMain(bundle, options);
    return { net: await openDensePart(bundle, 2, options), rounds: [roundOfPlan(plan, model)], onMain: false };
  }
  const net = await openDensePart(bundle, 'nets', options);
  return { net, rounds: roundsOfNets(plan, model, net.lastStage), onMain: false };
}
