import type { Characterisation, CharacterisedRun, Configuration } from '../characterisation.js';
import { html } from '../html.js';
import { machineLine } from '../machine.js';
import { formatBytes, formatCount, formatDuration, formatNumber, NOT_MEASURED } from '../numbers.js';
import { dataTable, factList, type Section } from '../page.js';

export function skippedSection({ skipped }: Characterisation): Section | null {
  if (skipped.length === 0) return null;
  return {
    id: 'skipped',
    heading: 'Skipped experiments',
    content: dataTable({
      caption: 'What was not run, and why',
      head: ['experiment', 'reason'],
      rows: skipped.map(({ experiment, reason }) => [experiment, { content: reason, kind: 'prose' }]),
    }),
  };
}

export function methodSection(results: Characterisation): Section {
  const { machine, model, workload, command, terabag, startedAt, endedAt, configurations } = results;
  const runs = configurations.flatMap((configuration) => configuration.runs.map((run) => runRow(configuration, run)));
  const took = endedAt === null ? 'not finished' : `${endedAt} (${formatDuration(Date.parse(endedAt) - Date.parse(startedAt))})`;
  return {
    id: 'method',
    heading: 'How it was run',
    content: [
      factList([
        ['machine', machineLine(machine)],
        ['command', html`<code>${command}</code>`],
        ['version', `Terabag ${terabag}`],
        ['started', startedAt],
        ['ended', took],
        [
          'model',
          `${model.name} ${model.version}, ${formatBytes(model.bytes)} in ${model.tables} tables, ${model.nets} ${model.nets === 1 ? 'net' : 'nets'}`,
        ],
        ['model hash', html`<code>${model.hash}</code>`],
        ['requests', `${formatCount(workload.requests)} different ones, seed ${workload.seed}`],
        ['items', `${workload.items} (mean ${formatNumber(workload.meanItems)}, at most ${workload.mostItems})`],
        ['row reuse', workload.reuse],
        ['lookups', workload.lookupsPerRequest === null ? NOT_MEASURED : `${formatNumber(workload.lookupsPerRequest)} per request`],
      ]),
      ...(configurations.length > 0 ? [html`<h3>Configurations</h3>`, dataTable(configurationsTable(configurations))] : []),
      ...(runs.length > 0
        ? [html`<h3>Runs</h3>`, dataTable({ caption: 'All loads, repeats together; times in ms', head: RUN_HEAD, rows: runs })]
        : []),
    ],
  };
}

const configurationsTable = (configurations: readonly Configuration[]) => ({
  caption: 'What was varied',
  head: ['configuration', 'strategy', 'shards', 'RPCs', 'rows', 'batch items', 'network', 'cores per shard'],
  rows: configurations.map(({ id, strategy, shards, rpc, rowFormat, batchItems, network, shardCpuLimit }) => [
    ...[id, strategy, String(shards), rpc ?? NOT_MEASURED, rowFormat],
    batchItems === null ? 'all' : String(batchItems),
    network === null ? 'as it is' : `+${formatNumber(network.delayMs)} ms, ${formatNumber(network.loss * 100)} % lost`,
    shardCpuLimit === null ? 'no limit' : formatNumber(shardCpuLimit),
  ]),
});

const RUN_HEAD = [
  ...['configuration', 'load', 'repeats', 'requests', 'failed', 'P50', 'P90', 'P99', 'P99.9', 'max'],
  ...['CPU main', 'CPU shards', 'GC ms/s', 'loop delay P99', 'valid'],
];

function runRow({ id }: Configuration, run: CharacterisedRun) {
  const { latencyMs, cpuMsPerRequest, collections, loopDelayMs, failures, invalid, measuredMs } = run;
  const failed = Object.entries(failures).filter(([, times]) => times > 0);
  return [
    id,
    run.kind === 'serial' ? 'serial' : `${formatNumber(run.qps)}/s`,
    String(run.repeats),
    formatCount(run.requests),
    failed.length === 0 ? '0' : failed.map(([code, times]) => `${times} ${code}`).join(', '),
    ...[latencyMs.p50, latencyMs.p90, latencyMs.p99, latencyMs.p999, latencyMs.max].map(formatNumber),
    formatNumber(cpuMsPerRequest?.main ?? null),
    formatNumber(cpuMsPerRequest?.shards ?? null),
    formatNumber(collections === null || measuredMs === 0 ? null : (collections.ms * 1000) / measuredMs),
    formatNumber(loopDelayMs?.p99 ?? null),
    invalid.length === 0 ? 'yes' : { content: `no: ${invalid.join('; ')}`, kind: 'prose' as const },
  ];
}
