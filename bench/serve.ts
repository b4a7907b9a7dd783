import { execFile, spawnSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { compiledPath } from '../src/compiled-path.js';
import { native } from '../src/engine/native.js';
import { HttpClient } from '../src/lab/endpoint/http-client.js';
import { RemotePredictor } from '../src/lab/endpoint/remote-predictor.js';
import { tablesOf } from '../src/lab/generate/model-shape.js';
import { RequestGenerator } from '../src/lab/generate/request-generator.js';
import { requestShape } from '../src/lab/generate/request-shape.js';
import { writeSyntheticBundle } from '../src/lab/generate/synthetic-bundle.js';
import { findMaxQps, firstRate } from '../src/lab/load/capacity-search.js';
import { failures, type LoadTarget } from '../src/lab/load/load-run.js';
import type { Pacer } from '../src/lab/load/pacer.js';
import { runSerialLoad } from '../src/lab/load/serial-load.js';
import { summarize } from '../src/lab/report/quantiles.js';
import type { Predictor, PredictRequest } from '../src/predictor/predictor.js';
import { writeSafetensors } from '../src/tables/safetensors.js';
import { PEERS_DIR, python } from './peers/process.js';
import { type ServerProcess, type ServingPeer, startServer, startServingPeer } from './peers/servers.js';
import { inputsOf, RawTarget, TensorTarget } from './peers/serving-targets.js';
import { dlrmShape } from './predict.js';
import { type Absent, type Line, median, type Peer, quartileSpread, type Suite, type SuiteOptions } from './suite.js';

const MODEL = 'dlrm';
const DENSE_DIM = 13;
/** Of a table, as in the models suite. */
const [ROWS, QUICK_ROWS] = [200_000, 2000];
/** So many that their rows are not those of caches. */
const DISTINCT = 256;
const DEADLINE_MS = 1000;

interface Lengths {
  /** Requests of a round, one at a time. */
  readonly serial: number;
  readonly warmUpMs: number;
  readonly probeMs: number;
  readonly tolerance: number;
  /** Of a probe, which is longer at low rates. */
  readonly fewestRequests: number;
  /** Of searches, which are many runs each. */
  readonly searches: number;
}
const FULL: Lengths = { serial: 400, warmUpMs: 1000, probeMs: 4000, tolerance: 0.05, fewestRequests: 1000, searches: 3 };
const QUICK: Lengths = { serial: 50, warmUpMs: 200, probeMs: 500, tolerance: 0.25, fewestRequests: 50, searches: 1 };

/** Our endpoint with one option and with another, in turn. */
interface Comparison {
  readonly name: string;
  readonly items: number;
  /** It is left out where terabag serve does not have it. */
  readonly flag: string;
  readonly off: readonly string[];
  readonly on: readonly string[];
  /** P99 of a search, ms; null: one request at a time. */
  readonly boundMs: number | null;
}

const COMPARISONS: readonly Comparison[] = [
  { name: 'batching-8', items: 8, flag: '--batch-delay', off: ['--batch-delay', '0s'], on: ['--batch-delay', '1ms'], boundMs: 10 },
];

export const serveSuite: Suite = {
  name: 'serve',
  description: `a DLRM with 26 tables, served: REST over the API in process, the highest rates within a P99 beside other servers, options on and off`,
  async *run(options) {
    const bench = await ServeBench.prepare(options);
    if (options.wanted.test('rest-64')) yield* bench.restOverApi(64);
    if (options.wanted.test('max-rate-64')) yield* bench.maxRates(64, 20);
    const help = spawnSync(process.execPath, [compiledPath('cli/main.js'), 'serve', '--help'], { encoding: 'utf8' }).stdout;
    for (const comparison of COMPARISONS)
      if (options.wanted.test(comparison.name) && help.includes(comparison.flag)) yield* bench.compare(comparison);
  },
};

/** How a server is started, asked and named. */
interface Contender {
  readonly peer: Peer | null;
  readonly variant: string;
  readonly start: () => Promise<ServerProcess | Absent>;
  readonly target: (server: ServerProcess) => Promise<LoadTarget & { close(): void }>;
}

interface Found {
  readonly qps: number;
  readonly params: Line['params'];
}

class ServeBench {
  private constructor(
    private readonly options: SuiteOptions,
    private readonly lengths: Lengths,
    private readonly bundle: string,
    private readonly rows: number,
  ) {}

  static async prepare(options: SuiteOptions): Promise<ServeBench> {
    const rows = options.quick ? QUICK_ROWS : ROWS;
    const bundle = join(options.dir, 'model');
    await writeSyntheticBundle(bundle, dlrmShape(rows));
    await promisify(execFile)(process.execPath, [compiledPath('cli/main.js'), 'warm', bundle]);
    return new ServeBench(options, options.quick ? QUICK : FULL, bundle, rows);
  }

  #requests(items: number): PredictRequest[] {
    const generator = new RequestGenerator(requestShape(dlrmShape(this.rows)), items);
    return Array.from({ length: DISTINCT }, () => generator.next(items));
  }

  #ours(...flags: string[]): Contender {
    const command = [process.execPath, compiledPath('cli/main.js'), 'serve', `${MODEL}=${this.bundle}`];
    const options = [
      '--http',
      '127.0.0.1:0',
      '--grpc',
      'off',
      '--verify',
      'size',
      '--deadline',
      `${DEADLINE_MS}ms`,
      '--drain',
      '0s',
      ...flags,
    ];
    return {
      peer: null,
      variant: flags.join(' '),
      start: () =>
        startServer([...command, ...options], {
          ready: '/v2/health/ready',
          parse: (line) => {
            const url = /^serving at (\S+)$/.exec(line)?.[1];
            return url === undefined ? null : { url };
          },
        }),
      target: ({ url }) => RemotePredictor.open({ url, model: MODEL }),
    };
  }

  async #predictor(): Promise<Predictor> {
    const { openLocal } = (await import(compiledPath('index.js'))) as typeof import('../src/index.js');
    return openLocal(this.bundle, { verify: 'size', deadlineMs: DEADLINE_MS });
  }

  /** One request at a time, of the API in this process and over REST, in turns. */
  async *restOverApi(items: number): AsyncGenerator<Line> {
    const requests = this.#requests(items);
    const predictor = await this.#predictor();
    const contender = this.#ours();
    const server = await contender.start();
    if ('note' in server) throw new Error(server.note);
    const remote = await contender.target(server);
    const rounds: { readonly api: Cost; readonly rest: Cost; readonly client: number }[] = [];
    try {
      for (let round = -1; round < this.options.rounds; round++) {
        const turn = Array.from({ length: this.lengths.serial }, (_, n) => requests[(round + 1 + n) % DISTINCT] as PredictRequest);
        const api = await costOf(predictor, turn, ownCpuUs);
        const own = ownCpuUs();
        const rest = await costOf(remote, turn, () => server.cpuUs());
        if (round >= 0) rounds.push({ api, rest, client: (ownCpuUs() - own) / turn.length / 1000 });
      }
    } finally {
      remote.close();
      await server.close();
      await predictor.close();
    }
    const of = (pick: (round: (typeof rounds)[number]) => number): number[] => rounds.map(pick);
    const line = (peer: Peer | null, p50s: number[], ratio: number | null, params: Line['params']): Line => ({
      ...{ ...this.#base(`rest-${items}`, items), metric: 'P50, one at a time', unit: 'ms', value: median(p50s) },
      ...{ peer, ratio, spread: quartileSpread(p50s) / median(p50s), params: { ...this.#params(items), ...params } },
    });
    const [more, cpu, client] = [
      median(of(({ api, rest }) => rest.p50 - api.p50)),
      median(of(({ api, rest }) => rest.cpuMs / api.cpuMs)),
      median(of((round) => round.client)),
    ];
    const against = `+${more.toFixed(3)} ms, CPU of the server ${cpu.toFixed(3)} x the API's; the client's ${client.toFixed(3)} ms beside`;
    const rest = of((round) => round.rest.p50);
    yield line(null, rest, null, { p50OverApiMs: more, cpuOverApi: cpu, clientCpuMs: client, against });
    const api = of((round) => round.api.p50);
    const variant = `CPU ${median(of((round) => round.api.cpuMs)).toFixed(3)} ms`;
    yield line('ts-api', api, median(api.map((ms, round) => ms / (rest[round] as number))), { variant });
  }

  /** The highest rates of open-loop load, in turns; of several variants of a server, that of the first turn's best. */
  async *maxRates(items: number, boundMs: number): AsyncGenerator<Line> {
    const groups = [[this.#ours('--workers', '1'), this.#ours('--workers', String(availableParallelism()))]];
    const absent: Absent[] = [];
    if (this.options.peers) {
      const models = await this.#writeModels(items);
      if (typeof models === 'string')
        absent.push(...(['onnxruntime', 'fastapi', 'kserve', 'triton'] as const).map((peer) => ({ peer, note: models })));
      else groups.push(...this.#peers(models));
    }
    yield* this.#searches(`max-rate-${items}`, items, boundMs, groups, absent);
  }

  async *compare({ name, items, off, on, boundMs }: Comparison): AsyncGenerator<Line> {
    const without: Contender = { ...this.#ours(...off), peer: 'variant' };
    if (boundMs !== null) yield* this.#searches(name, items, boundMs, [[this.#ours(...on)], [without]], []);
  }

  async *#searches(name: string, items: number, boundMs: number, given: Contender[][], absent: Absent[]): AsyncGenerator<Line> {
    const requests = this.#requests(items);
    const predictor = await this.#predictor();
    const expected = (await predictor.predict(requests[0] as PredictRequest)).scores;
    await predictor.close();
    let groups = given;
    const found = new Map<Contender, Found[]>();
    for (let turn = 0; turn < this.lengths.searches; turn++) {
      for (const contender of groups.flat()) {
        const searched = await this.#search(contender, requests, expected, boundMs);
        if ('note' in searched) absent.push(searched);
        else found.set(contender, [...(found.get(contender) ?? []), searched]);
      }
      const ratesOf = (contender: Contender): number => found.get(contender)?.[0]?.qps ?? -1;
      groups = groups.flatMap((group) => {
        const [best] = group.filter((contender) => found.has(contender)).sort((a, b) => ratesOf(b) - ratesOf(a));
        return best === undefined ? [] : [[best]];
      });
    }
    const ours = found.get(groups.flat().find(({ peer }) => peer === null) as Contender) ?? [];
    const base = { ...this.#base(name, items), metric: `requests a second, P99 within ${boundMs} ms`, unit: '/s' };
    for (const contender of groups.flat()) {
      const { peer, variant } = contender;
      const own = found.get(contender) ?? [];
      const rates = own.map(({ qps }) => qps);
      const value = median(rates);
      const ratio = peer === null ? null : median(rates.map((qps, turn) => (ours[turn]?.qps ?? 0) / qps));
      const params = { ...this.#params(items), ...own[0]?.params, variant, against: variant };
      yield { ...base, peer, ratio, value, spread: quartileSpread(rates) / value, params };
    }
    for (const { peer, note } of absent) yield { ...base, peer, note, ratio: null, value: null, spread: null, params: this.#params(items) };
  }

  async #search(
    contender: Contender,
    requests: readonly PredictRequest[],
    expected: Float32Array,
    boundMs: number,
  ): Promise<Found | Absent> {
    const { peer, variant } = contender;
    const failed = (note: string): Absent => {
      if (peer === null) throw new Error(`terabag serve ${variant}: ${note}`);
      return { peer, note: `${variant}: ${note}` };
    };
    const server = await contender.start().catch((error: Error) => failed(error.message));
    if ('note' in server) return server;
    try {
      const target = await contender.target(server);
      try {
        const { scores } = (await target.predict(requests[0] as PredictRequest, { deadlineMs: 10 * DEADLINE_MS })) as {
          readonly scores: Float32Array;
        };
        const wrong = expected.findIndex((score, at) => !(Math.abs((scores[at] ?? Number.NaN) - score) <= 1e-4 * Math.abs(score) + 1e-6));
        if (wrong >= 0) return failed(`scores differ: item ${wrong}, ${scores[wrong]}, ours ${expected[wrong]}`);
        const load = { predictor: target, requests, deadlineMs: DEADLINE_MS };
        const { warmUpMs, probeMs, tolerance, fewestRequests } = this.lengths;
        const serial = await runSerialLoad({ ...load, warmUpMs, durationMs: probeMs / 2 });
        const alone = serial.latency.quantile(0.5);
        if (alone === null) return failed(`no request was answered: ${JSON.stringify(serial.errors)}`);
        const { qps, probes } = await findMaxQps({
          ...{ ...load, warmUpMs, durationMs: probeMs, tolerance, fewestRequests, process: 'poisson', seed: 1, repeats: 1 },
          ...{ bound: { quantile: 0.99, ms: boundMs }, firstQps: firstRate(alone), pacer: new TickPacer() },
        });
        const probe = probes.find((each) => each.qps === qps);
        if (qps === null || probe === undefined) return failed(`no rate meets the bound; alone, a request takes ${alone.toFixed(2)} ms`);
        return { qps, params: { ...server.params, aloneMs: alone, failed: failures(probe.run) } };
      } finally {
        target.close();
      }
    } catch (error) {
      return failed((error as Error).message);
    } finally {
      await server.close();
    }
  }

  /** Files that peers serve; a text when they cannot be had. */
  async #writeModels(items: number): Promise<object | string> {
    const { dir } = this.options;
    const [request] = this.#requests(items) as [PredictRequest];
    const predictor = await this.#predictor();
    const { scores } = await predictor.predict(request);
    await predictor.close();
    const { dense, ids } = inputsOf(request);
    const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array | BigInt64Array) => new Uint8Array(buffer, byteOffset, byteLength);
    const bags = tablesOf(dlrmShape(this.rows)).length;
    const task = {
      bundle: this.bundle,
      items,
      script: join(dir, 'served.pt'),
      onnx: join(dir, 'served.onnx'),
      request: join(dir, 'one.safetensors'),
    };
    await writeSafetensors(task.request, [
      { name: 'dense', dtype: 'F32', shape: [items, DENSE_DIM], data: bytesOf(dense) },
      { name: 'ids', dtype: 'I64', shape: [bags, items], data: bytesOf(ids) },
      { name: 'scores', dtype: 'F32', shape: [items, 1], data: bytesOf(scores) },
    ]);
    const [program = '', script = ''] = python('served_models.py', 'torch');
    const { status, stderr, error } = spawnSync(program, [script, JSON.stringify(task)], { encoding: 'utf8' });
    if (status === 0) return { ...task, bags, denseDim: DENSE_DIM };
    return `no model (${PEERS_DIR}; node bench/peers/setup.mjs installs what it needs): ${error?.message ?? stderr.trim().split('\n').at(-1)}`;
  }

  /** Each in the configurations that its users would try. */
  #peers(models: object): Contender[][] {
    const cores = availableParallelism();
    const spread = [
      { workers: 1, threads: 1 },
      { workers: 1, threads: cores },
      { workers: cores, threads: 1 },
    ];
    const settings: Record<ServingPeer, readonly Readonly<Record<string, number>>[]> = {
      onnxruntime: spread,
      fastapi: spread,
      kserve: spread,
      triton: [
        { threads: 1, mostRequests: 1, queueDelayUs: 0 },
        { threads: 1, mostRequests: 16, queueDelayUs: 0 },
        { threads: cores, mostRequests: 16, queueDelayUs: 0 },
      ],
    };
    const target = (peer: ServingPeer, url: string): LoadTarget & { close(): void } => {
      const client = new HttpClient(new URL(url));
      const path = `/v2/models/${MODEL}/infer`;
      const asked =
        peer === 'kserve'
          ? new TensorTarget(client, path, 'bags first')
          : peer === 'triton'
            ? new TensorTarget(client, path, 'items first')
            : new RawTarget(client);
      return { predict: (request, options) => asked.predict(request, options), close: () => client.close() };
    };
    return Object.entries(settings).map(([name, tried]) => {
      const peer = name as ServingPeer;
      return (this.options.quick ? tried.slice(0, 1) : tried).map(
        (setting): Contender => ({
          peer,
          variant: Object.entries(setting)
            .map(([what, value]) => `${what} ${value}`)
            .join(', '),
          start: () => startServingPeer(peer, { ...models, ...setting }),
          target: async ({ url }) => target(peer, url),
        }),
      );
    });
  }

  #params(items: number): Line['params'] {
    return { items, tables: 26, rows: this.rows };
  }

  #base(name: string, items: number): Pick<Line, 'suite' | 'case' | 'isa' | 'threads' | 'residency' | 'params'> {
    return { suite: 'serve', case: name, isa: native.isa, threads: 1, residency: 'populate', params: this.#params(items) };
  }
}

interface Cost {
  readonly p50: number;
  readonly cpuMs: number;
}

function ownCpuUs(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}

async function costOf(target: LoadTarget, requests: readonly PredictRequest[], cpuUs: () => number): Promise<Cost> {
  const milliseconds: number[] = [];
  const before = cpuUs();
  for (const request of requests) {
    const startedAt = performance.now();
    await target.predict(request, { deadlineMs: DEADLINE_MS });
    milliseconds.push(performance.now() - startedAt);
  }
  return { p50: summarize(milliseconds).p50, cpuMs: (cpuUs() - before) / 1000 / requests.length };
}

/** Of a timer: it fires up to so much after its time on an idle loop. */
const TICK_MS = 2;

/**
 * Sleeps until requests are due, and sends them then all together, up to a tick late; their latency counts from their own times. Servers on this machine
 * need the core that a pacer which turns until the microsecond takes.
 */
class TickPacer implements Pacer {
  now(): number {
    return performance.now();
  }

  async until(at: number): Promise<number> {
    const startedAt = this.now();
    if (at <= startedAt) {
      await new Promise((resolve) => setImmediate(resolve));
      return 0;
    }
    const before = performance.eventLoopUtilization();
    await sleep(Math.ceil(at - startedAt));
    const now = this.now();
    const busy = now - startedAt - performance.eventLoopUtilization(before).idle;
    return Math.max(0, now - at - TICK_MS - Math.max(0, busy));
  }

  waitingCpuUs(): number {
    return 0;
  }
}
