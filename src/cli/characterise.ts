import { join } from 'node:path';
import { Command } from 'commander';
import type { Residency } from '../engine/residency.js';
import { TerabagError } from '../errors.js';
import { type CharacteriseOptions, characterise, GROUPS, type Observer } from '../lab/characterise/characterise.js';
import { TRACE_FILE } from '../lab/characterise/groups/trace.js';
import { RESULTS_FILE } from '../lab/characterise/results-file.js';
import type { Characterisation, Finding } from '../lab/report/characterisation.js';
import { renderCharacterisation } from '../lab/report/characterisation-report.js';
import { Charts } from '../lab/report/charts.js';
import { writeFileAtomic } from '../tables/atomic.js';
import { further } from './help.js';
import { INTERRUPTED, interruption } from './interruption.js';
import { commaSeparated, positiveDurationMs, positiveInteger, requestRate, residencyOption, verifyOption } from './options.js';
import { withProgress } from './progress.js';
import { figure, printTable, text } from './table.js';
import { warn } from './warn.js';

interface CharacteriseCommandOptions {
  readonly output: string;
  readonly requests?: string;
  readonly items: string;
  readonly seed: number;
  readonly quick?: boolean;
  readonly only?: string[];
  readonly qps?: number;
  readonly p99?: number;
  readonly rounds?: number;
  readonly verify: 'full' | 'size';
  readonly residency: Residency;
  readonly json?: boolean;
}

const REPORT_FILE = 'report.html';

const MEASURED_BY = GROUPS.map(({ name, description }) => `  ${name.padEnd(11)} ${description}`).join('\n');

export const characteriseCommand = new Command('characterise')
  .description('measure how a model behaves sharded on this machine: strategies, batches, row formats, hosts, rates')
  .argument('<bundle>', 'directory of the model')
  .requiredOption('-o, --output <dir>', `directory of the results: ${RESULTS_FILE}, ${REPORT_FILE}, ${TRACE_FILE}, packed bundles`)
  .option('--requests <file>', 'requests to send (.jsonl or .safetensors); without it, random ones that fit the model')
  .option('--items <sizes>', 'of random requests: N, lognormal:MEDIAN,SIGMA[,MAX], or file:PATH with a size a line', 'lognormal:64,1,512')
  .option('--seed <n>', 'of random requests and arrivals', positiveInteger, 1)
  .option('--quick', 'less of everything: a look at whether it works, not figures')
  .option('--only <groups>', 'only these groups of experiments, comma-separated', commaSeparated)
  .option('--qps <n>', 'the steady rate (default: 0.3 of what all tables in one process do serially)', requestRate)
  .option('--p99 <time>', 'the bound of the highest rate (default: twice the serial P99 of all tables in one process)', positiveDurationMs)
  .option('--rounds <n>', 'turns of each configuration', positiveInteger)
  .addOption(verifyOption())
  .addOption(residencyOption())
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    further(`
Groups of experiments:
${MEASURED_BY}

Configurations take turns within one run, so that what drifts falls on all alike; ratios are of the same round. Every finished group is kept: the same
command goes on where it was interrupted. With 4 GB of tables on 2 cores it takes about 10 minutes, with --quick one.

Examples:
  terabag characterise ./drm1 -o ./results
  terabag characterise ./drm1 -o ./results --quick
  terabag characterise ./model -o ./results --requests requests.safetensors --qps 25 --p99 50ms
  terabag characterise ./model -o ./results --only strategies,formats --rounds 9 --json`),
  )
  .action(async (bundle: string, options: CharacteriseCommandOptions, command: Command) => {
    const unknown = options.only?.find((name) => !GROUPS.some((group) => group.name === name));
    if (unknown !== undefined)
      command.error(`error: no such group: ${unknown}; there are ${GROUPS.map(({ name }) => name).join(', ')} (--only)`);
    const interrupted = interruption();
    const { output, p99, quick = false, json: _, ...rest } = options;
    const given: CharacteriseOptions = {
      ...rest,
      ...{ dir: output, quick, signal: interrupted, observer: terminalObserver() },
      ...(p99 !== undefined && { p99Ms: p99 }),
      command: ['terabag', ...process.argv.slice(2)].map(quoted).join(' '),
      version: command.parent?.version() ?? '',
    };
    const results = await characterise(bundle, given);
    await writeReport(results, output);
    if (options.json) console.log(JSON.stringify(results));
    else print(results, output);
    if (interrupted.aborted) {
      process.stderr.write('terabag: interrupted; the same command goes on from here\n');
      process.exitCode = INTERRUPTED;
    }
  });

/** Also after an interruption. Results are worth more than their pictures: what is in the way of these is only told. */
async function writeReport(results: Characterisation, dir: string): Promise<void> {
  try {
    await writeFileAtomic(join(dir, REPORT_FILE), renderCharacterisation(results, await Charts.load()));
  } catch (error) {
    warn(`no ${REPORT_FILE}: ${TerabagError.from(error).message}`);
  }
}

/** As a shell reads it. */
const quoted = (word: string): string => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

const seconds = (ms: number): number => Math.round(ms / 1000);
const minutes = (ms: number): string => (ms < 90_000 ? `${seconds(ms)} s` : `${(ms / 60_000).toFixed(1)} minutes`);

/** All on stderr: stdout is for the results. */
function terminalObserver(): Observer {
  const say = (line: string): void => void process.stderr.write(`${line}\n`);
  const warnings = new Set<string>();
  return {
    reading: (work) => withProgress('reading tables', 'bytes', work),
    planned: (groups, already) => {
      if (already.length > 0) say(`measured already: ${already.join(', ')}`);
      for (const { name, description, estimateMs } of groups) say(`${name}: ${description}, about ${minutes(estimateMs)}`);
      if (groups.length > 0) say(`in all about ${minutes(groups.reduce((sum, { estimateMs }) => sum + estimateMs, 0))}`);
    },
    running: async (name, work) => {
      const startedAt = performance.now();
      const result = await withProgress(name, 'seconds', (onProgress) =>
        work((doneMs, totalMs) => onProgress(seconds(doneMs), seconds(totalMs))),
      );
      say(`${name} took ${minutes(performance.now() - startedAt)}`);
      return result;
    },
    // The same bundle is opened again and again.
    warned: (message) => {
      if (!warnings.has(message)) warn(message);
      warnings.add(message);
    },
  };
}

const verdict = ({ held }: Finding): string => (held === null ? 'not measured' : held ? 'held' : 'not held');
const times = (ratio: { readonly median: number; readonly low: number; readonly high: number } | null): string =>
  ratio === null ? '' : `${ratio.median.toFixed(3)} (${ratio.low.toFixed(3)}-${ratio.high.toFixed(3)})`;

function print(results: Characterisation, dir: string): void {
  type Overhead = Characterisation['overheads'][number];
  printTable<Overhead>(results.overheads, [
    text('configuration', ({ configuration }) => configuration),
    text('over', ({ baseline }) => baseline),
    text('load', ({ kind }) => kind),
    ...(['p50', 'p90', 'p99', 'cpu'] as const).map((of) => figure<Overhead>(of.toUpperCase(), (overhead) => times(overhead[of]))),
  ]);
  for (const finding of results.findings) console.log(`${verdict(finding)}: ${finding.statement}\n  ${finding.numbers}`);
  for (const { experiment, reason } of results.skipped) console.log(`skipped: ${experiment}: ${reason}`);
  console.log(`${join(dir, RESULTS_FILE)} has all figures, ${join(dir, REPORT_FILE)} draws them`);
}
