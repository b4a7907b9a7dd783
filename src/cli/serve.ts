import cluster from 'node:cluster';
import { once } from 'node:events';
import { basename, resolve } from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import { openServiceManager, type ServiceManager } from '../cluster/service-manager.js';
import type { Precision } from '../engine/native.js';
import type { Residency } from '../engine/residency.js';
import { readModelSpec } from '../model/bundle.js';
import { PredictorMeter } from '../observe/predictor-meter.js';
import { MAIN_SHARD, readPlan } from '../plan/file/plan.js';
import { bundleOf } from '../plan/file/published.js';
import type { RpcMode } from '../plan/predict/rpc-mode.js';
import { openLocal } from '../predictor/local.js';
import type { ShardFailurePolicy } from '../predictor/pipeline.js';
import type { Predictor } from '../predictor/predictor.js';
import { connect } from '../predictor/sharded.js';
import { type ModelFiles, modelsOfRepository } from '../serve/models.js';
import { serveModels } from '../serve/serve.js';
import type { ModelSource } from '../serve/served-model.js';
import { superviseWorkers, tellPrimary, workerMetrics, workerPeers } from '../serve/workers.js';
import { further } from './help.js';
import {
  durationMs,
  positiveByteSize,
  positiveDurationMs,
  positiveInteger,
  precisionOption,
  quantityOption,
  residencyOption,
  rpcOption,
  shardFailureOption,
  verifyOption,
} from './options.js';
import { mainKeyOption, type SecurityFlags, securityOf, shardKeyOption } from './security-options.js';
import { warn } from './warn.js';

interface ServeCommandOptions extends SecurityFlags {
  readonly plan?: readonly NamedPath[];
  readonly repository?: string;
  readonly http: string;
  readonly grpc: string;
  readonly deadline: number;
  readonly drain: number;
  readonly metrics?: string;
  readonly batchDelay: number;
  readonly workers: number;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly tlsCa?: string;
  readonly tokenFile?: string;
  readonly maxBody: number;
  readonly corsOrigin?: string;
  readonly allowRepositoryControl?: boolean;
  readonly rpc: RpcMode;
  readonly dedup?: boolean;
  readonly onShardFailure?: ShardFailurePolicy;
  readonly verify: 'full' | 'size';
  readonly residency: Residency;
  readonly precision: Precision;
}

/** NAME:VERSION=PATH, NAME=PATH or PATH. */
interface NamedPath {
  readonly name: string | null;
  readonly version: string | null;
  readonly path: string;
}

function namedPath(text: string): NamedPath {
  const [, name = null, version = null, path = ''] = /^(?:([\w.-]+)(?::([\w.-]+))?=)?(.+)$/s.exec(text) ?? [];
  if (path === '') throw new InvalidArgumentError('It has to be PATH, NAME=PATH or NAME:VERSION=PATH.');
  return { name, version, path };
}

const collected = (text: string, before: readonly NamedPath[] = []): readonly NamedPath[] => [...before, namedPath(text)];

export const serveCommand = new Command('serve')
  .description('serve models over HTTP and gRPC (Open Inference Protocol v2) until SIGTERM or SIGINT')
  .argument('[models...]', 'DIR, NAME=DIR or NAME:VERSION=DIR: a bundle, or, with --plan, what one was published to', collected)
  .option(
    '--plan <file>',
    'ask the running shards of this plan: FILE, or NAME=FILE or NAME:VERSION=FILE where there are several models',
    collected,
  )
  .option('--repository <dir>', 'serve every DIR/NAME/VERSION/, which is a bundle, with plan.json in it if it has shards')
  .option('--http <address>', 'HOST:PORT of HTTP; *:PORT: every address of this machine', '127.0.0.1:8000')
  .option('--grpc <address>', 'HOST:PORT of gRPC, likewise; off: none', '127.0.0.1:8001')
  .addOption(quantityOption('--deadline <time>', 'of requests that name none', positiveDurationMs, '100ms'))
  .addOption(
    quantityOption(
      '--drain <time>',
      'after SIGTERM, how long requests are still taken while load balancers see that it is not ready',
      durationMs,
      '3s',
    ),
  )
  .option('--metrics <address>', 'HOST:PORT of a further listener of /metrics and health only, without TLS and tokens')
  .addOption(
    quantityOption(
      '--batch-delay <time>',
      'how long small requests wait for others at most, with which they are run as one; 0s: not at all',
      durationMs,
      '0s',
    ),
  )
  .option('--workers <n>', 'processes that share the listening sockets and the mapped tables, each a main shard', positiveInteger, 1)
  .option('--tls-cert <file>', 'certificate (PEM): HTTPS and gRPC over TLS')
  .option('--tls-key <file>', 'its key (PEM)')
  .option('--tls-ca <file>', 'roots (PEM) of client certificates: others are refused')
  .option('--token-file <file>', 'bearer tokens, one a line, of which each request needs one; read anew when it changes')
  .addOption(quantityOption('--max-body <size>', 'of a request, decompressed', positiveByteSize, '64MiB'))
  .option('--cors-origin <origin>', 'whose pages may call: an origin, or *')
  .option('--allow-repository-control', 'let clients load and unload models')
  .addOption(rpcOption())
  .addOption(mainKeyOption())
  .addOption(shardKeyOption())
  .option('--dedup', 'with --plan: send and pool bags that are alike within a request once')
  .addOption(shardFailureOption())
  .addOption(verifyOption())
  .addOption(residencyOption())
  .addOption(precisionOption())
  .addHelpText(
    'after',
    further(`
It listens at once (with --workers, when the models of a worker are open) and is ready (/v2/health/ready) when every table of every model has a live replica. A model is named as its model.json says, unless
NAME is given. SIGTERM: not ready at once; requests in flight end, and then the listeners close. A second signal does not wait.

Examples:
  terabag serve ./model
  terabag serve ./model --plan plan.json --http '*:8000'
  terabag serve ranker=./ranker ranker:2=./ranker-2 ads=./published/ads --plan ads=ads-plan.json
  terabag serve --repository ./models --allow-repository-control
  curl --data @request.json http://127.0.0.1:8000/v1/models/ranker:rank`),
  )
  .action(async (models: readonly NamedPath[], options: ServeCommandOptions, command: Command) => {
    const { tlsCert, tlsKey, tlsCa } = options;
    if ((tlsCert === undefined) !== (tlsKey === undefined)) command.error('error: --tls-cert and --tls-key need each other');
    if (tlsCa !== undefined && tlsCert === undefined) command.error('error: --tls-ca needs --tls-cert and --tls-key');
    const find = await modelFinder(models, options, command);
    const manager = cluster.isWorker ? await openServiceManager({ env: {} }) : await openServiceManager({ onWarning: warn });
    if (options.workers > 1 && cluster.isPrimary) return primary(options, manager);
    const server = await serveModels(
      find,
      {
        ...{ http: options.http, maxBody: options.maxBody, drainMs: options.drain, onWarning: warn },
        ...{ batchDelayMs: options.batchDelay, deadlineMs: options.deadline },
        ...(options.metrics !== undefined && { metrics: options.metrics }),
        ...(options.grpc !== 'off' && { grpc: options.grpc }),
        ...(tlsCert !== undefined &&
          tlsKey !== undefined && { tls: { cert: tlsCert, key: tlsKey, ...(tlsCa !== undefined && { clientCa: tlsCa }) } }),
        ...(options.tokenFile !== undefined && { tokenFile: options.tokenFile }),
        ...(options.corsOrigin !== undefined && { corsOrigin: options.corsOrigin }),
        repositoryControl: options.allowRepositoryControl === true,
      },
      cluster.isWorker ? { peersOf: workerPeers, metricsOf: workerMetrics, openFirst: true } : {},
    );
    void server.opened.then(() => manager.ready(`serving at ${server.url}`));
    const { url, grpcAddress, metricsUrl } = server;
    const where = `${url}${grpcAddress === null ? '' : `, gRPC at ${grpcAddress}`}${metricsUrl === null ? '' : `, metrics at ${metricsUrl}`}`;
    if (cluster.isPrimary) console.log(`serving at ${where}`);
    else tellPrimary(where);
    await askedToEnd();
    manager.stopping();
    await server.close();
    if (cluster.isPrimary) console.log('stopped');
    // Its channel to the primary keeps a worker.
    else process.disconnect();
  });

/** Resolves at the first SIGTERM or SIGINT; a second one ends the process at once. */
async function askedToEnd(): Promise<void> {
  const ending = new AbortController();
  const asked = (): void => {
    if (ending.signal.aborted) process.exit(0);
    ending.abort();
  };
  process.on('SIGTERM', asked);
  // A terminal sends it to all processes: workers end when their primary says so.
  process.on('SIGINT', cluster.isWorker ? () => undefined : asked);
  await once(ending.signal, 'abort');
}

async function primary({ workers }: ServeCommandOptions, manager: ServiceManager): Promise<void> {
  const ended = new AbortController();
  void askedToEnd().then(() => {
    manager.stopping();
    ended.abort();
  });
  const onServing = (where: string): void => {
    console.log(`serving at ${where}`);
    manager.ready(`serving at ${where}`);
  };
  await superviseWorkers(workers, ended.signal, { onServing, onWarning: warn });
  console.log('stopped');
}

async function modelFinder(
  models: readonly NamedPath[],
  options: ServeCommandOptions,
  command: Command,
): Promise<() => Promise<ModelSource[]>> {
  const { repository, plan: plans = [], onShardFailure, rpc, dedup } = options;
  if (models.length === 0 && repository === undefined) command.error('error: name a model, or --repository <dir>');
  if (plans.length === 0 && repository === undefined) {
    if (onShardFailure !== undefined) command.error('error: --on-shard-failure needs the shards of a --plan');
    if (rpc === 'paper' || dedup) command.error('error: --rpc paper and --dedup need the shards of a --plan');
    if (securityOf(options).security !== undefined) command.error('error: --key and --shard-key need the shards of a --plan');
  }
  const named = await Promise.all(models.map((model) => modelFiles(model)));
  const files = withPlans(named, plans, command);
  const twice = files.find(({ name, version }, at) => files.findIndex((other) => other.name === name && other.version === version) !== at);
  if (twice !== undefined) command.error(`error: model ${twice.name} version ${twice.version} is named twice: give one NAME:VERSION=DIR`);
  // What is wrong with them is said before it listens.
  for (const { plan } of files) if (plan !== null) await readPlan(plan);
  if (repository !== undefined) await modelsOfRepository(repository);
  return async () => {
    const found = repository === undefined ? [] : await modelsOfRepository(repository);
    const more = found.filter(({ name, version }) => !files.some((known) => known.name === name && known.version === version));
    return [...files, ...more].map((each) => ({
      name: each.name,
      version: each.version,
      open: (signal) => openModel(each, options, signal),
    }));
  };
}

/** As its model.json calls it, unless it is named. */
async function modelFiles({ name, version, path }: NamedPath): Promise<ModelFiles> {
  const told = name !== null && version !== null ? null : await readModelSpec(await bundleOf(path, MAIN_SHARD));
  return { name: name ?? told?.name ?? basename(resolve(path)), version: version ?? told?.version ?? '1', bundle: path, plan: null };
}

/** A plan without a name is that of the only model. */
function withPlans(models: readonly ModelFiles[], plans: readonly NamedPath[], command: Command): ModelFiles[] {
  const files = [...models];
  for (const { name, version, path } of plans) {
    const meant = files.filter((model) => (name === null || model.name === name) && (version === null || model.version === version));
    if (meant.length !== 1) {
      const known = files.map((model) => `${model.name}:${model.version}`).join(', ');
      command.error(`error: --plan ${path} has to name one of the models, as NAME=FILE or NAME:VERSION=FILE: ${known || 'there are none'}`);
    }
    const at = files.indexOf(meant[0] as ModelFiles);
    files[at] = { ...(meant[0] as ModelFiles), plan: path };
  }
  return files;
}

async function openModel({ bundle, plan }: ModelFiles, options: ServeCommandOptions, signal: AbortSignal): Promise<Predictor> {
  const { deadline: deadlineMs, verify, residency, precision, rpc, dedup = false, onShardFailure = 'error' } = options;
  const common = { deadlineMs, meter: new PredictorMeter(), verify, residency, precision, signal, onWarning: warn };
  if (plan === null) return openLocal(bundle, common);
  // It is told as not ready while shards are missing, and serves as soon as they are there.
  return connect(await readPlan(plan), { ...common, bundle, rpc, dedup, onShardFailure, readyMs: 0, ...securityOf(options) });
}
