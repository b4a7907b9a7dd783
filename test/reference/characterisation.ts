import type { Characterisation, CharacterisedRun, Configuration, PlanHolder } from '../../src/lab/report/characterisation.js';
import { LatencyHistogram } from '../../src/observe/latency-histogram.js';

const GIB = 2 ** 30;
const SINGULAR = { id: 'singular', strategy: 'singular', shards: 0 };
const LATENCY_SHARES = {
  dense: 0.3,
  interaction: 0.08,
  embedded: 0.4,
  serialization: 0.07,
  service: 0.05,
  overhead: 0.05,
  collection: 0.02,
  eventLoop: 0.02,
  unattributed: 0.01,
};
const EMBEDDED_SHARES = {
  network: 0.4,
  sparse: 0.3,
  serialization: 0.1,
  queueing: 0.08,
  overhead: 0.07,
  collection: 0.02,
  eventLoop: 0.03,
};
const COMPUTE_SHARES = { dense: 0.38, interaction: 0.1, sparse: 0.25, serialization: 0.1, service: 0.06, overhead: 0.05, other: 0.06 };

/** Every part of the results filled, with invented figures that resemble a real run; always the same. */
export function fullCharacterisation(): Characterisation {
  const random = seeded(11);
  const plain = [
    SINGULAR,
    { id: 'one-shard', strategy: 'one-shard', shards: 1 },
    ...['capacity-balanced', 'load-balanced', 'nsbp'].flatMap((strategy) =>
      [2, 4, 8].map((shards) => ({ id: `${strategy}-${shards}`, strategy, shards })),
    ),
  ];
  const varied: (Pick<Configuration, 'id' | 'strategy' | 'shards'> & Partial<Configuration>)[] = [
    { ...{ id: 'load-balanced-4-int8', strategy: 'load-balanced', shards: 4 }, rowFormat: 'int8' },
    { ...{ id: 'load-balanced-4-int4', strategy: 'load-balanced', shards: 4 }, rowFormat: 'int4' },
    { ...{ id: 'load-balanced-4-half-core', strategy: 'load-balanced', shards: 4 }, shardCpuLimit: 0.5 },
    { ...{ id: 'load-balanced-4-1ms', strategy: 'load-balanced', shards: 4 }, network: { delayMs: 1, loss: 0.001 } },
    { ...{ id: 'load-balanced-4-paper', strategy: 'load-balanced', shards: 4 }, rpc: 'paper' },
  ];
  const configurations = [...plain, ...varied].map((given): Configuration => {
    const slowness = slownessOf(given);
    return {
      rpc: given.shards === 0 ? null : 'coalesced',
      rowFormat: 'fp32',
      batchItems: null,
      network: null,
      shardCpuLimit: null,
      plan: planOf(given.shards, given.strategy, random),
      runs: [runOf(null, slowness, given.shards, random), runOf(25, 1 + (slowness - 1) * 0.7, given.shards, random)],
      ...given,
    };
  });
  const sharded = configurations.slice(1);
  return {
    terabagCharacterisation: 1,
    terabag: '0.1.0',
    command: 'terabag characterise ./drm1 --scale 0.02 -o results.json',
    startedAt: '2026-03-04T10:00:00.000Z',
    endedAt: '2026-03-04T11:42:10.000Z',
    machine: { cpu: 'Example CPU 9000', cores: 2, memoryBytes: 24 * GIB, system: 'linux 6.12.0 x64', node: '20.20.0', isa: 'avx512' },
    model: { name: 'drm1', version: '1', hash: '0123456789abcdef'.repeat(4), bytes: 4 * GIB, tables: 257, nets: 2 },
    workload: {
      items: 'lognormal, median 130, at most 1000',
      meanItems: 171.3,
      mostItems: 1000,
      reuse: 'as in published traces',
      lookupsPerRequest: 41_250,
      seed: 7,
      requests: 512,
    },
    configurations,
    overheads: [null, 25].flatMap((qps) =>
      sharded.map((configuration) => {
        const ratio = (factor: number) => {
          const median = (1 + (slownessOf(configuration) - 1) * factor) * (0.99 + 0.02 * random());
          return { median, low: median * 0.95, high: median * 1.06 };
        };
        return {
          ...{
            configuration: configuration.id,
            baseline: 'singular',
            kind: qps === null ? ('serial' as const) : ('open-loop' as const),
            qps,
            pairs: 5,
          },
          ...{ p50: ratio(1), p90: ratio(0.6), p99: ratio(0.3), cpu: qps === null && configuration.id === 'one-shard' ? null : ratio(1.4) },
        };
      }),
    ),
    knees: configurations.slice(0, 11).map((configuration) => {
      const most = 90 / slownessOf(configuration);
      const points = [0.1, 0.3, 0.5, 0.7, 0.85, 0.95, 1.02].map((share) => {
        const waiting = 1 / Math.max(0.03, 1 - share);
        return { qps: share * most, p50: 6 * waiting ** 0.5, p99: share > 1 ? null : 14 * waiting ** 0.8, valid: share < 1 };
      });
      return { configuration: configuration.id, p99BoundMs: 50, maxQps: most * 0.83, points };
    }),
    batchSweeps: ['singular', 'load-balanced-4'].map((configuration, c) => ({
      configuration,
      points: [8, 32, 128, 512, 1024].map((batchItems) => ({
        batchItems,
        p50: (8 + 60 / batchItems + batchItems / 300) * (1 + c * 0.1),
        p99: (20 + 120 / batchItems + batchItems / 150) * (1 + c * 0.05),
        cpuMs: 9 + 40 / batchItems + c,
      })),
    })),
    batchSchedules: [
      {
        configuration: 'load-balanced-4',
        p99BoundMs: 50,
        best: { items: 181, qps: 71.2 },
        measured: [64, 128, 181, 256, 512].map((items) => ({ items, qps: 71.2 - Math.abs(Math.log2(items / 181)) * 9 })),
      },
    ],
    waterfall: {
      ...{ configuration: 'load-balanced-4', request: 'the median of 400 serial requests', items: 131, latencyMs: 6.4, spans: spansOf(4) },
    },
    findings: [
      {
        id: 'tail-cost',
        statement: 'In its best configuration, sharding raises P99 by about one percent.',
        held: true,
        numbers: 'P99 1.009 x singular with load-balanced-8, serial, 5 pairs.',
      },
      {
        id: 'one-shard-worst',
        statement: 'One shard with all tables is slower than every plan with more.',
        held: true,
        numbers: 'P50 1.45 x, all others 1.05 x to 1.31 x.',
      },
      {
        id: 'nsbp-cpu',
        statement: 'Packing tables by net costs the least CPU.',
        held: false,
        numbers: 'CPU 1.21 x for nsbp-4, 1.19 x for capacity-balanced-4.',
      },
      {
        id: 'small-hosts',
        statement: 'Sparse shards on smaller hosts cost no visible latency.',
        held: null,
        numbers: 'Needs the right to limit CPUs; see the skipped experiments.',
      },
    ],
    skipped: [
      { experiment: 'Slower sparse hosts', reason: 'cgroups cannot be written here: needs root, or a delegated cgroup.' },
      { experiment: 'Packet loss', reason: 'network namespaces need CAP_NET_ADMIN.' },
    ],
  };
}

/** Slower with fewer shards, and with what was varied. */
function slownessOf({ id, strategy, shards }: Pick<Configuration, 'id' | 'strategy' | 'shards'>): number {
  const base = shards === 0 ? 1 : 1.05 + 0.4 / shards;
  const kind = strategy === 'nsbp' ? 0.06 : strategy === 'capacity-balanced' ? 0.03 : 0;
  const more = id.endsWith('1ms') ? 0.35 : id.endsWith('paper') ? 0.2 : id.endsWith('int8') ? -0.15 : id.endsWith('int4') ? -0.17 : 0;
  return base + kind + more;
}

function runOf(qps: number | null, slowness: number, shards: number, random: () => number): CharacterisedRun {
  const latency = new LatencyHistogram();
  for (let n = 0; n < 4000; n++) {
    const size = Math.exp(0.5 * normal(random));
    latency.record((qps === null ? 5 : 6.5) * size + (slowness - 1) * 5 + (random() < 0.01 ? 8 * random() : 0));
  }
  const stack = (totalMs: number, shares: Readonly<Record<string, number>>) =>
    Object.entries(shares).map(([layer, share]) => ({ layer, ms: share * totalMs * (0.9 + 0.2 * random()) }));
  const { p50 = 0, p99 = 0 } = latency.summary() as { p50: number; p99: number };
  return {
    kind: qps === null ? 'serial' : 'open-loop',
    qps,
    repeats: 3,
    measuredMs: 30_000,
    requests: 4000 + (qps === null ? 0 : 2),
    failures: qps === null ? {} : { deadline_exceeded: 2 },
    invalid: qps !== null && shards === 1 ? ['the load generator was late by itself: 41 of 4002 sends by more than 1 ms'] : [],
    latencyMs: latency.toJSON(),
    cpuMsPerRequest: { main: 6.1, shards: shards === 0 ? null : 2.2, total: shards === 0 ? 6.1 : 8.3 },
    rpcsPerRequest: shards,
    bytesPerRequest: { sent: shards === 0 ? 0 : 168_000 + 900 * shards, received: shards === 0 ? 0 : 131_000 + 700 * shards },
    collections: { count: 41, ms: 61.5 },
    loopDelayMs: { p50: 0.1, p99: 1.4, max: 6.2 },
    stacks: [
      { quantile: 0.5, ms: p50 },
      { quantile: 0.99, ms: p99 },
    ].map(({ quantile, ms }) => ({
      quantile,
      requests: 80,
      latency: stack(ms, shards === 0 ? { ...LATENCY_SHARES, serialization: 0, service: 0 } : LATENCY_SHARES),
      embedded: shards === 0 ? [] : stack(ms * 0.45, EMBEDDED_SHARES),
      compute: stack(ms * 1.3, shards === 0 ? { dense: 0.5, interaction: 0.12, sparse: 0.3, overhead: 0.08 } : COMPUTE_SHARES),
    })),
  };
}

function planOf(shards: number, strategy: string, random: () => number): PlanHolder[] {
  const names = shards === 0 ? ['main'] : Array.from({ length: shards }, (_, s) => `shard-${s}`);
  return names.map((name, s) => {
    const bytes = Math.round(((4 * GIB) / names.length) * (strategy === 'capacity-balanced' ? 1 : 0.7 + 0.6 * random()));
    const largest = Array.from({ length: 5 }, (_, t) => ({
      table: `table_${s * 30 + t}`,
      bytes: Math.round((bytes * 0.25) / (t + 1)),
      parts: t === 4 ? 2 : 1,
    }));
    const lookupsPerRequest = Math.round((41_250 / names.length) * (strategy === 'load-balanced' ? 1 : 0.5 + random()));
    return { name, bytes, tables: Math.round(257 / names.length), lookupsPerRequest, largest };
  });
}

function spansOf(shards: number) {
  const span = (lane: string, name: string, startMs: number, durationMs: number, layer: string | null) => ({
    lane,
    name,
    startMs,
    durationMs,
    layer,
  });
  return [
    span('main thread', 'check', 0, 0.12, 'overhead'),
    span('main thread', 'partition', 0.12, 0.3, 'overhead'),
    span('main thread', 'place', 4.1, 0.25, 'service'),
    span('main thread', 'finish', 6.35, 0.05, 'overhead'),
    span('dense layers', 'bottom layers', 0.7, 1.6, 'dense'),
    span('dense layers', 'top layers', 4.35, 2, 'dense'),
    ...Array.from({ length: shards }, (_, s) => {
      const lane = `shard-${s}`;
      const at = 0.45 + s * 0.08;
      const end = 3.2 + s * 0.25;
      return [
        span(lane, 'RPC', at, end - at, null),
        span(lane, 'serialize', at, 0.08, 'serialization'),
        span(lane, 'network', at + 0.1, 0.4, 'network'),
        span(lane, 'pool', at + 0.5, end - at - 1.1, 'sparse'),
        span(lane, 'network', end - 0.6, 0.5, 'network'),
        span(lane, 'deserialize', end - 0.1, 0.1, 'serialization'),
      ];
    }).flat(),
  ];
}

/** Numbers from 0 to 1, always the same. */
function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

const normal = (random: () => number): number => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
