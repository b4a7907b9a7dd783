import type { Costs } from '../plan/costs.js';
import { latencyUs } from '../plan/latency.js';
import { askedOfRequest, predictRequest } from '../plan/predict-request.js';
import { mainAmounts, shardAmounts } from '../plan/request-cost.js';
import type { EngineCosts } from './calibrate-engine.js';
import type { Measured } from './calibrate-requests.js';
import { nonNegativeLeastSquares, type Observation } from './least-squares.js';

const NOTHING = {
  main: {
    ...{ fixedUs: 0, askUs: 0, usPerRpc: 0, nsPerSegment: 0, nsPerBag: 0, nsPerId: 0 },
    ...{ nsPerRowWiseId: 0, nsPerRowWisePartial: 0, nsPerByteSent: 0, nsPerByteReceived: 0 },
  },
  shard: { usPerRpc: 0, nsPerByteSent: 0, nsPerByteReceived: 0 },
  latency: { waitUs: 0, onPath: 0, bytesOnPath: 0 },
};

/** The costs that explain the measured requests best, given those of the engine. */
export function fitCosts(machine: string, sharedCores: number, engine: EngineCosts, measured: readonly Measured[]): Costs {
  const engineOnly: Costs = { terabagCosts: 1, machine, sharedCores, ...engine, ...NOTHING };
  const main = fitMain(engineOnly, measured);
  const shard = fitShard(engineOnly, measured);
  return fitLatency({ ...engineOnly, main, shard }, measured);
}

function fitMain(engineOnly: Costs, measured: readonly Measured[]): Costs['main'] {
  const keys = Object.keys(NOTHING.main) as (keyof Costs['main'])[];
  const observations = measured.map(({ planned, plan, profile, mainCpuUs }): Observation => {
    const { items } = profile;
    const { shards, own } = askedOfRequest(planned, plan, profile, engineOnly, items.mean);
    const amounts = mainAmounts(shards, own);
    const ofEngine = predictRequest(planned, plan, profile, engineOnly, items.mean).main.cpuUs;
    return { amounts: keys.map((key) => amounts[key]), value: mainCpuUs - ofEngine, scale: mainCpuUs };
  });
  return costsOf(keys, nonNegativeLeastSquares(observations));
}

function fitShard(engineOnly: Costs, measured: readonly Measured[]): Costs['shard'] {
  const keys = Object.keys(NOTHING.shard) as (keyof Costs['shard'])[];
  const observations = measured
    .filter(({ plan }) => plan.shards.length > 0)
    .map(({ planned, plan, profile, shardCpuUs }): Observation => {
      const { items } = profile;
      const { shards } = askedOfRequest(planned, plan, profile, engineOnly, items.mean);
      const amounts = shards.map(shardAmounts);
      const ofEngine = predictRequest(planned, plan, profile, engineOnly, items.mean).shards.reduce((sum, { cpuUs }) => sum + cpuUs, 0);
      const total = (key: keyof Costs['shard']): number => amounts.reduce((sum, amount) => sum + amount[key], 0);
      return { amounts: keys.map(total), value: shardCpuUs - ofEngine, scale: shardCpuUs };
    });
  return costsOf(keys, nonNegativeLeastSquares(observations));
}

const costsOf = <K extends string>(keys: readonly K[], values: readonly number[]): Record<K, number> =>
  Object.fromEntries(keys.map((key, index) => [key, values[index] ?? 0])) as Record<K, number>;

const SHARES = Array.from({ length: 21 }, (_, step) => step / 20);
const WAITS_US = Array.from({ length: 61 }, (_, step) => step * 5);

/** Tries all shares and waits, and takes those with the least mean relative error. */
function fitLatency(costs: Costs, measured: readonly Measured[]): Costs {
  const sharded = measured
    .filter(({ plan }) => plan.shards.length > 0)
    .map(({ planned, plan, profile, p50Us }) => ({ p50Us, ...predictRequest(planned, plan, profile, costs, profile.items.p50) }));
  const errorOf = (latency: Costs['latency']): number =>
    sharded.reduce((sum, { timeline, p50Us }) => sum + Math.abs(Math.log(latencyUs(timeline, { ...costs, latency }) / p50Us)), 0);
  let best = { error: Number.POSITIVE_INFINITY, latency: costs.latency };
  for (const onPath of SHARES) {
    for (const bytesOnPath of SHARES) {
      for (const waitUs of WAITS_US) {
        const latency = { waitUs, onPath, bytesOnPath };
        const error = errorOf(latency);
        if (error < best.error) best = { error, latency };
      }
    }
  }
  return { ...costs, latency: best.latency };
}
