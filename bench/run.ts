import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Argument, Command, InvalidArgumentError } from 'commander';
import { positiveInteger, regularExpression } from '../src/cli/options.js';
import { describeMachine, machineLine } from '../src/lab/report/machine.js';
import { refuseUnwritable, writeFileAtomic } from '../src/tables/atomic.js';
import { attentionSuite } from './attention.js';
import { batchingSuite } from './batching.js';
import { fcSuite } from './fc.js';
import { hostsSuite } from './hosts.js';
import { interactionSuite } from './interaction.js';
import { keyedSuite } from './keyed.js';
import { metricsSuite } from './metrics.js';
import { modelsSuite } from './models.js';
import { overloadSuite } from './overload.js';
import { pinTo } from './peers/process.js';
import { planSuite } from './plan.js';
import { plannerSuite } from './planner.js';
import { poolSuite } from './pool.js';
import { predictSuite } from './predict.js';
import { rpcSuite } from './rpc.js';
import { serveSuite } from './serve.js';
import { shardsSuite } from './shards.js';
import { stagesSuite } from './stages.js';
import type { Line, Suite } from './suite.js';

const suites: readonly Suite[] = [
  poolSuite,
  keyedSuite,
  fcSuite,
  interactionSuite,
  attentionSuite,
  predictSuite,
  modelsSuite,
  serveSuite,
  shardsSuite,
  rpcSuite,
  stagesSuite,
  metricsSuite,
  overloadSuite,
  batchingSuite,
  planSuite,
  plannerSuite,
  hostsSuite,
];
/** They start processes of their own. */
const UNPINNED: readonly Suite[] = [
  serveSuite,
  shardsSuite,
  rpcSuite,
  stagesSuite,
  metricsSuite,
  overloadSuite,
  batchingSuite,
  planSuite,
  hostsSuite,
];
const SCRATCH = 'bench-output';
const [ROUNDS, QUICK_ROUNDS] = [9, 3];

interface RunOptions {
  readonly json?: string;
  readonly quick: boolean;
  readonly peers: boolean;
  readonly case?: RegExp;
  readonly rounds?: number;
  readonly core: number;
}

function coreNumber(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('It has to be the number of a core, 0 or more.');
  return Number(text);
}

const figure = (value: number): string => (Number.isInteger(value) ? String(value) : value.toPrecision(4));

function forPeople({ case: name, params, peer, value, unit, ratio, spread, residency, note }: Line): string {
  const who = (peer ?? 'terabag').padEnd(20);
  if (value === null) return `${name.padEnd(34)} ${who} ${note}`;
  const times = ratio === null ? '' : `${ratio.toFixed(2)} x ours`;
  const noise = spread === null ? '' : `+-${(spread * 100).toFixed(1)} %`;
  const detail =
    note ?? (peer === null ? (params['against'] ?? residency) : (params['read'] ?? params['calls'] ?? params['variant'] ?? ''));
  return `${name.padEnd(34)} ${who} ${`${figure(value)} ${unit}`.padStart(14)} ${noise.padStart(9)}  ${times.padEnd(15)} ${detail === 'none' ? '' : detail}`;
}

// Handlers of exit end what was started, which a signal alone would not let them do.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1));

await new Command('npm run bench --')
  .description('Measures, and prints what it ran on. Nothing else should run on the machine meanwhile.')
  .addArgument(
    new Argument('<suite>', suites.map(({ name, description }) => `${name}: ${description}`).join('; ')).choices(
      suites.map(({ name }) => name),
    ),
  )
  .option('--peers', 'measure other systems in the same rounds; node bench/peers/setup.mjs installs them', false)
  .option('--case <pattern>', 'only cases whose names match this regular expression', regularExpression)
  .option('--rounds <n>', `rounds of every case (default: ${ROUNDS})`, positiveInteger)
  .option('--core <n>', 'the core that all of it runs on, apart from shards', coreNumber, 1)
  .option('--json <file>', 'write a JSON object per figure and line')
  .option('--quick', 'smaller data and fewer rounds: shows that it works, not what it reaches', false)
  .addHelpText(
    'after',
    `
A ratio is the other's time over ours, the median over rounds in which both took turns: above 1, ours is faster. The limit is what plain loops
get from this machine, measured in the same rounds: its ratio is the share of it that ours reaches.
TERABAG_ISA=scalar|avx2|avx512|neon chooses the kernels. Times of one round vary with what else the machine does; compare ratios.

Examples:
  npm run bench -- pool --peers
  npm run bench -- pool --case 'int8|int4' --peers --json pool.jsonl
  npm run bench -- predict --peers
  TERABAG_ISA=avx2 npm run bench -- fc --quick`,
  )
  .action(async (name: string, options: RunOptions, command: Command) => {
    const { json, quick, peers, case: wanted = /^/ } = options;
    if (json !== undefined)
      // Before the rounds, not after them.
      await refuseUnwritable('--json', json).catch(({ message }: Error) => command.error(`error: ${message}`));
    const suite = suites.find((candidate) => candidate.name === name) as Suite;
    const ranOn = describeMachine();
    const pinned = UNPINNED.includes(suite) ? 'on all cores' : pinTo(Math.min(options.core, ranOn.cores - 1));
    console.log(`${suite.name}: ${suite.description}\n${machineLine(ranOn)}, ${pinned}${quick ? '\nquick: not for comparison' : ''}`);
    await mkdir(SCRATCH, { recursive: true });
    const dir = await mkdtemp(join(SCRATCH, `${suite.name}-`));
    const lines: Line[] = [];
    const rounds = options.rounds ?? (quick ? QUICK_ROUNDS : ROUNDS);
    try {
      for await (const line of suite.run({ quick, peers, rounds, wanted, dir })) {
        lines.push(line);
        console.log(forPeople(line));
      }
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
    if (lines.length === 0) command.error(`error: no case of ${name} matches --case: ${wanted.source}`);
    if (json !== undefined) await writeFileAtomic(json, lines.map((line) => `${JSON.stringify({ ...line, ranOn })}\n`).join(''));
  })
  .parseAsync();
