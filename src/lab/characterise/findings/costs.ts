import type { Configuration, Overhead } from '../../report/characterisation.js';
import { compareRatios, compareWithBaseline, ratioText } from '../compare-ratios.js';
import { type Hypothesis, type Judged, notMeasured, type Verdict } from '../hypothesis.js';

/** More than this of P99 would be seen, spread or not. */
const VISIBLE = 1.05;

interface Costed {
  readonly configuration: Configuration;
  readonly cpu: NonNullable<Overhead['cpu']>;
}

/** Strategies that differ in nothing else, with nsbp among them: same RPCs, batches and shards, plain hosts. */
function rivalsOfNsbp({ configurations, overheads }: Judged): Costed[][] {
  const costs = new Map(
    overheads.flatMap(({ configuration, baseline, kind, cpu }) =>
      kind === 'serial' && baseline.startsWith('singular') && cpu !== null ? [[configuration, cpu]] : [],
    ),
  );
  const groups = new Map<string, Costed[]>();
  for (const configuration of configurations) {
    const { id, shards, rpc, batchItems, rowFormat, network, shardCpuLimit } = configuration;
    const cpu = costs.get(id);
    if (cpu === undefined || shards < 2 || network !== null || shardCpuLimit !== null) continue;
    const key = [shards, rpc, batchItems, rowFormat].join(' ');
    groups.set(key, [...(groups.get(key) ?? []), { configuration, cpu }]);
  }
  return [...groups.values()].filter((group) => group.length > 1 && group.some(({ configuration }) => configuration.strategy === 'nsbp'));
}

function nsbpCostsLeast(results: Judged): Verdict {
  const groups = rivalsOfNsbp(results);
  if (groups.length === 0) return notMeasured(results, 'strategies', 'nsbp and another strategy on as many shards were not both');
  const compared = groups.map((group) => {
    const nsbp = group.find(({ configuration }) => configuration.strategy === 'nsbp') as Costed;
    const orders = group.filter((each) => each !== nsbp).map(({ cpu }) => compareRatios(nsbp.cpu, cpu));
    return { group, beaten: orders.includes('higher'), ahead: orders.includes('lower') };
  });
  const text = ({ group }: { readonly group: readonly Costed[] }): string =>
    group.map(({ configuration, cpu }) => `${configuration.id} ${ratioText(cpu)}`).join(', ');
  return {
    held: compared.every(({ beaten }) => !beaten) && compared.some(({ ahead }) => ahead),
    numbers: `CPU over singular, serial: ${compared.map(text).join('; ')}; held if nsbp never needs more than another on as many shards, and once less`,
  };
}

/** Compares configurations with the same one as it was given, serial. */
function against(
  results: Judged,
  differs: (configuration: Configuration) => boolean,
  baselineIs: (baseline: string) => boolean,
): [Configuration, Overhead][] {
  const byId = new Map(results.configurations.map((configuration) => [configuration.id, configuration]));
  return results.overheads.flatMap((overhead) => {
    const configuration = byId.get(overhead.configuration);
    return configuration !== undefined && overhead.kind === 'serial' && differs(configuration) && baselineIs(overhead.baseline)
      ? [[configuration, overhead] as [Configuration, Overhead]]
      : [];
  });
}

const latencyText = ({ configuration, baseline, p50, p99 }: Overhead): string =>
  `${configuration} over ${baseline} P50 ${ratioText(p50)}, P99 ${ratioText(p99)}`;

const notSeen = ({ p50, p99 }: Overhead): boolean =>
  [p50, p99].every((ratio) => ratio.median <= VISIBLE || compareWithBaseline(ratio) !== 'higher');

function slowerHosts(results: Judged): Verdict {
  const all = against(
    results,
    ({ shardCpuLimit }) => shardCpuLimit !== null,
    () => true,
  );
  if (all.length === 0) return notMeasured(results, 'slow-hosts', 'no shards with a CPU limit');
  return {
    held: all.every(([, overhead]) => notSeen(overhead)),
    numbers: `serial: ${all.map(([{ shardCpuLimit }, overhead]) => `${shardCpuLimit} cores a shard: ${latencyText(overhead)}`).join('; ')}; held if each is at most ${VISIBLE} or inside the spread`,
  };
}

const bytesOf = ({ plan }: Configuration): number => plan.reduce((sum, { bytes }) => sum + bytes, 0);

function packedRows(results: Judged): Verdict {
  const byId = new Map(results.configurations.map((configuration) => [configuration.id, configuration]));
  const formatOf = (id: string): string | undefined => byId.get(id)?.rowFormat;
  const all = against(
    results,
    ({ rowFormat }) => rowFormat.startsWith('int'),
    (baseline) => formatOf(baseline)?.startsWith('int') === false,
  );
  if (all.length === 0) return notMeasured(results, 'formats', 'no packed rows');
  const text = ([configuration, overhead]: [Configuration, Overhead]): string => {
    const given = byId.get(overhead.baseline);
    const times = given === undefined ? Number.NaN : bytesOf(given) / bytesOf(configuration);
    return `${configuration.rowFormat} ${times.toFixed(2)} times smaller, ${latencyText(overhead)}`;
  };
  return {
    held: all.every(([, overhead]) => notSeen(overhead)),
    numbers: `serial: ${all.map(text).join('; ')}; held if each latency is at most ${VISIBLE} or inside the spread`,
  };
}

export const COST_FINDINGS: readonly Hypothesis[] = [
  {
    id: 'nsbp-costs-least-cpu',
    statement: 'Packing tables by net (nsbp) needs the least CPU, since each shard serves one net.',
    judge: nsbpCostsLeast,
  },
  {
    id: 'slower-sparse-hosts-are-free',
    statement: 'Sparse shards on slower hosts cost no visible latency.',
    judge: slowerHosts,
  },
  {
    id: 'packed-rows-shrink-the-model',
    statement: 'Rows of int8 and int4 make the model several times smaller, at no visible latency.',
    judge: packedRows,
  },
];
