import { fork } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { position, positiveInteger, positiveNumber } from '../../src/cli/options.js';
import { type Scenario, scenarioOf } from './scenario.js';
import { shrink } from './shrink.js';
import { type Outcome, simulate } from './simulation.js';
import { INVARIANTS, type Violation } from './violations.js';

interface Options {
  readonly seed: number;
  readonly requests: number;
  readonly seconds: number;
  /** Fewer requests in these seconds are enough. */
  readonly mayEndEarly: boolean;
  readonly jobs: number;
  readonly seeds: number;
  readonly shrink: boolean;
  readonly trace: boolean;
}

/** What many seeds came to. */
interface Totals {
  seeds: number;
  requests: number;
  answered: number;
  faults: number;
  messages: number;
  virtualMs: number;
  recoveredMs: number;
  readonly errors: Record<string, number>;
}

interface Failure {
  readonly seed: number;
  readonly violation: Violation;
}

/** From a process that runs seeds. */
interface Report {
  readonly totals: Totals;
  readonly failure: Failure | null;
}

const MOST_SECONDS = 3600;
const SHRINK_MS = 120_000;
const REPORT_MS = 500;
/** Between two lines that tell how far a long run is. */
const PROGRESS_MS = 60_000;
const MS_PER_DAY = 86_400_000;
/** Lines of a trace that are shown, from its end. */
const SHOWN = 200;

const noTotals = (): Totals => ({ seeds: 0, requests: 0, answered: 0, faults: 0, messages: 0, virtualMs: 0, recoveredMs: 0, errors: {} });

function add(totals: Totals, more: Totals): void {
  for (const name of ['seeds', 'requests', 'answered', 'faults', 'messages', 'virtualMs'] as const) totals[name] += more[name];
  totals.recoveredMs = Math.max(totals.recoveredMs, more.recoveredMs);
  for (const [code, count] of Object.entries(more.errors)) totals.errors[code] = (totals.errors[code] ?? 0) + count;
}

const totalsOf = ({ requests, answered, faults, messages, virtualMs, recoveredMs, errors }: Outcome): Totals => ({
  ...{ seeds: 1, requests, answered, faults, messages, virtualMs, recoveredMs },
  errors: { ...errors },
});

interface GivenOptions extends Omit<Options, 'seed' | 'seeds' | 'seconds' | 'mayEndEarly'> {
  readonly seed?: number;
  readonly seeds?: number;
  readonly seconds?: number;
  readonly list: boolean;
}

function optionsOf(): Options {
  const { seconds, list, ...given } = new Command('npm run simulate --')
    .description('The client and the server of shards under a simulated clock, network and chance.')
    .option('--seed <n>', 'the first (default: another one each day)', position)
    .option('--requests <n>', 'end after so many', positiveInteger, 1_000_000)
    .option('--seconds <n>', `end after so many (default: ${MOST_SECONDS}, and to end then is a failure)`, positiveNumber)
    .option('--jobs <n>', 'processes', positiveInteger, availableParallelism())
    .option('--seeds <n>', 'end after so many', positiveInteger)
    .option('--shrink', 'make the first failing seed smaller, and print what happens in it', false)
    .option('--trace', 'print what happens in each seed', false)
    .option('--list', 'print the invariants', false)
    .addHelpText(
      'after',
      '\nExamples:\n  npm run simulate -- --requests 10000000 --shrink\n  npm run simulate -- --seed 7 --seeds 1 --trace',
    )
    .parse()
    .opts<GivenOptions>();
  if (list) {
    for (const [name, text] of Object.entries(INVARIANTS)) console.log(`${name.padEnd(24)}${text}`);
    process.exit(0);
  }
  const { seed = Math.floor(Date.now() / MS_PER_DAY) * 1_000_000, seeds = Number.POSITIVE_INFINITY } = given;
  return { ...given, seed, seeds, seconds: seconds ?? MOST_SECONDS, mayEndEarly: seconds !== undefined };
}

/** Runs each jobs-th seed and reports now and then, until it is told to end. */
async function work({ seed, jobs, seeds, trace }: Options, job: number): Promise<void> {
  // Errors are made by the thousand; a failing seed is run again for its stacks.
  Error.stackTraceLimit = 0;
  let totals = noTotals();
  let reportAt = performance.now() + REPORT_MS;
  for (let at = job; at < seeds; at += jobs) {
    const outcome = await simulate(scenarioOf(seed + at), trace);
    if (trace) console.log(outcome.trace.join('\n'));
    add(totals, totalsOf(outcome));
    const failure = outcome.violation === null ? null : { seed: seed + at, violation: outcome.violation };
    if (failure === null && performance.now() < reportAt) continue;
    process.send?.({ totals, failure } satisfies Report);
    totals = noTotals();
    reportAt = performance.now() + REPORT_MS;
    // Lets it hear whether it is to end.
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
  process.send?.({ totals, failure: null } satisfies Report);
}

/** Until enough requests were made, or a seed fails. */
async function runAll(options: Options, args: readonly string[]): Promise<{ readonly totals: Totals; readonly failures: Failure[] }> {
  const totals = noTotals();
  const failures: Failure[] = [];
  const jobs = Math.min(options.jobs, options.seeds);
  const children = Array.from({ length: jobs }, (_, job) =>
    fork(fileURLToPath(import.meta.url), [...args, '--seed', String(options.seed), '--jobs', String(jobs)], {
      execArgv: ['--import', 'tsx'],
      env: { ...process.env, TERABAG_SIMULATION_JOB: String(job) },
    }),
  );
  const endAll = (): void => {
    for (const child of children) child.kill();
  };
  const timer = setTimeout(endAll, options.seconds * 1000);
  const startedAt = performance.now();
  const progress = setInterval(() => {
    const share = (100 * totals.requests) / options.requests;
    const minutes = Math.round((performance.now() - startedAt) / 60_000);
    console.error(`${totals.requests} requests (${share.toFixed(1)} %) in ${totals.seeds} seeds, ${minutes} min: none wrong so far`);
  }, PROGRESS_MS);
  const ends = children.map(
    (child) =>
      new Promise<void>((resolve, reject) => {
        child.on('message', (report: Report) => {
          add(totals, report.totals);
          if (report.failure !== null) failures.push(report.failure);
          if (failures.length > 0 || totals.requests >= options.requests) endAll();
        });
        child.on('exit', (code, signal) => {
          if (code === 0 || signal === 'SIGTERM') resolve();
          else reject(new Error(`a process of the simulation ended: ${code ?? signal}`));
        });
      }),
  );
  await Promise.all(ends);
  clearTimeout(timer);
  clearInterval(progress);
  return { totals, failures };
}

function show(totals: Totals, seconds: number): void {
  const { seeds, requests, answered, faults, messages, virtualMs, recoveredMs, errors } = totals;
  const rate = Math.round(requests / seconds);
  console.log(`${requests} requests in ${seeds} seeds, ${seconds.toFixed(1)} s: ${rate} requests a second`);
  console.log(`answered right ${answered}; errors ${JSON.stringify(errors)}`);
  console.log(
    `${faults} faults, ${messages} messages, ${Math.round(virtualMs / 1000)} virtual seconds; recovered after at most ${recoveredMs} ms`,
  );
}

async function showFailure({ seed, violation }: Failure, shrinks: boolean): Promise<void> {
  console.log(`\nseed ${seed} breaks an invariant, after ${violation.at.toFixed(3)} virtual ms: ${violation.invariant}`);
  console.log(`  ${INVARIANTS[violation.invariant]}\n  ${violation.message}`);
  console.log(`replay: npm run simulate -- --seed ${seed} --seeds 1 --shrink`);
  if (!shrinks) return;
  const { scenario, outcome, runs } = await shrink(scenarioOf(seed), { invariant: violation.invariant, budgetMs: SHRINK_MS });
  console.log(
    `\nshrunk in ${runs} runs to ${scenario.requests.length} requests and ${scenario.faults.length} faults: ${outcome.violation?.message}`,
  );
  console.log(describe(scenario));
  console.log(outcome.trace.slice(-SHOWN).join('\n'));
}

const describe = ({ settings, faults }: Scenario): string =>
  [JSON.stringify(settings), ...faults.map((fault) => JSON.stringify(fault))].join('\n');

const job = process.env['TERABAG_SIMULATION_JOB'];
const options = optionsOf();
if (job !== undefined) await work(options, Number(job)).then(() => process.disconnect?.());
else {
  const startedAt = performance.now();
  const { totals, failures } = await runAll(options, process.argv.slice(2));
  show(totals, (performance.now() - startedAt) / 1000);
  for (const [at, failure] of failures.entries()) await showFailure(failure, options.shrink && at === 0);
  const tooFew = totals.requests < options.requests && totals.seeds < options.seeds && !options.mayEndEarly;
  if (tooFew && failures.length === 0) console.log(`fewer requests than ${options.requests}`);
  process.exitCode = failures.length > 0 || tooFew ? 1 : 0;
}
