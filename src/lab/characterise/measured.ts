import { isPacked } from '../../model/formats.js';
import type { ModelSpec } from '../../model/spec.js';
import { failures } from '../load/load-run.js';
import type { BatchSweep, Characterisation, CharacterisedRun, Configuration, Overhead } from '../report/characterisation.js';
import { planHolders } from '../report/plan-holders.js';
import { cpuOf, pairRounds, type Rounds } from './ratios.js';
import { type Compared, type Setup, setupId } from './setup.js';
import type { Stand } from './stand.js';
import { stacksOf } from './tracing.js';
import { mergeTurns, type Turn } from './turns.js';

/** What an experiment adds to the results. */
export type Measured = Pick<
  Characterisation,
  'configurations' | 'overheads' | 'knees' | 'batchSweeps' | 'batchSchedules' | 'waterfall' | 'skipped'
>;

export const NOTHING: Measured = {
  ...{ configurations: [], overheads: [], knees: [], batchSweeps: [], batchSchedules: [], waterfall: null, skipped: [] },
};

/** Results with what an experiment measured. What is there already stays: experiments share baselines, and the first to run one has it. */
export function addMeasured<T extends Measured>(results: T, measured: Partial<Measured>): T {
  const configurations = [...results.configurations];
  for (const configuration of measured.configurations ?? []) {
    const at = configurations.findIndex(({ id }) => id === configuration.id);
    const known = configurations[at];
    if (known === undefined) configurations.push(configuration);
    else configurations[at] = { ...known, runs: joined(known.runs, configuration.runs, ({ kind, qps }) => `${kind} ${qps}`) };
  }
  return {
    ...results,
    configurations,
    overheads: joined(results.overheads, measured.overheads, ({ configuration, baseline, kind, qps }) =>
      [configuration, baseline, kind, qps].join(' '),
    ),
    knees: joined(results.knees, measured.knees, ({ configuration }) => configuration),
    batchSweeps: joined(results.batchSweeps, measured.batchSweeps, ({ configuration }) => configuration),
    batchSchedules: joined(results.batchSchedules, measured.batchSchedules, ({ configuration }) => configuration),
    waterfall: results.waterfall ?? measured.waterfall ?? null,
    skipped: joined(results.skipped, measured.skipped, ({ experiment }) => experiment),
  };
}

function joined<T>(known: readonly T[], added: readonly T[] | undefined, key: (entry: T) => string): T[] {
  const keys = new Set(known.map(key));
  return [...known, ...(added ?? []).filter((entry) => !keys.has(key(entry)))];
}

/** What turns came to: a configuration per stand, and its overhead over the baseline beside which it ran. */
export function measuredTurns(
  compared: readonly Compared[],
  stands: readonly Stand[],
  turns: readonly (readonly Turn[])[],
): Partial<Measured> {
  const turnsOf = new Map(stands.map(({ setup }, s) => [setupId(setup), turns[s] ?? []]));
  const overheads = compared.flatMap(({ setup, baseline }): Overhead[] => {
    const roundsOf = (each: Setup): Rounds => ({
      runs: (turnsOf.get(setupId(each)) ?? []).map(({ run }) => run),
      shards: each.shards,
    });
    const own = roundsOf(setup);
    const [first] = own.runs;
    if (setupId(setup) === setupId(baseline) || first === undefined) return [];
    const pairs = pairRounds(own, roundsOf(baseline));
    return pairs === null ? [] : [{ configuration: setupId(setup), baseline: setupId(baseline), ...loadOfRun(first), ...pairs }];
  });
  return { configurations: stands.map((stand, s) => configurationOf(stand, turns[s] ?? [])), overheads };
}

const loadOfRun = ({ offeredQps }: { readonly offeredQps: number | null }): Pick<CharacterisedRun, 'kind' | 'qps'> => ({
  kind: offeredQps === null ? 'serial' : 'open-loop',
  qps: offeredQps,
});

/** A stand as the results describe it. Without turns it has no run. */
export function configurationOf({ setup, spec, plan, profile, tracer }: Stand, turns: readonly Turn[]): Configuration {
  const { strategy, shards, rpc, batchItems, network, shardCpuLimit } = setup;
  return {
    ...{ id: setupId(setup), strategy, shards, rpc, batchItems, network, shardCpuLimit },
    rowFormat: rowFormatOf(spec),
    plan: planHolders(plan, spec, profile),
    runs: turns.length === 0 ? [] : [{ ...runOf(setup, turns), stacks: stacksOf(tracer) }],
  };
}

function rowFormatOf({ tables }: ModelSpec): string {
  const formats = new Set(tables.map(({ format }) => format));
  const packed = [...formats].filter(isPacked);
  return formats.size === 1 ? ([...formats][0] as string) : `mixed${packed.length > 0 ? ` with ${packed.join(', ')}` : ''}`;
}

function runOf({ shards }: Setup, turns: readonly Turn[]): Omit<CharacterisedRun, 'stacks'> {
  const { run, rpcs } = mergeTurns(turns);
  const { count } = run.latency;
  const asked = count + failures(run);
  return {
    ...loadOfRun(run),
    repeats: turns.length,
    measuredMs: run.measuredMs,
    requests: asked,
    failures: { ...run.errors },
    invalid: [...run.invalid],
    latencyMs: run.latency.toJSON(),
    cpuMsPerRequest: cpuOf(run, shards),
    rpcsPerRequest: rpcs === null || asked === 0 ? null : rpcs.rpcs / asked,
    bytesPerRequest: rpcs === null || asked === 0 ? null : { sent: rpcs.bytesSent / asked, received: rpcs.bytesReceived / asked },
    collections: { count: run.cost.collections, ms: run.cost.collectionMs },
    loopDelayMs: { ...run.cost.loopDelayMs },
  };
}

/** The points of a sweep over items per batch, out of configurations that differ in nothing else; those of whole requests count as mostItems. */
export function batchSweepOf(configuration: string, swept: readonly Configuration[], mostItems: number): BatchSweep {
  const points = swept.flatMap(({ batchItems, runs: [run] }) =>
    run === undefined
      ? []
      : [
          {
            batchItems: batchItems ?? mostItems,
            p50: run.latencyMs.p50,
            p99: run.latencyMs.p99,
            cpuMs: run.cpuMsPerRequest?.total ?? null,
          },
        ],
  );
  return { configuration, points: points.sort((a, b) => a.batchItems - b.batchItems) };
}
