import { Command } from 'commander';
import { positiveInteger, positiveNumber, regularExpression } from '../../src/cli/options.js';
import { emulationSupport } from '../../src/lab/index.js';
import type { Case, Stage } from './case.js';
import { CASES } from './cases/index.js';
import { ChaosCluster, openMain } from './cluster.js';
import { capacityOf } from './load.js';
import { printTable, writeResults } from './report.js';
import { removeModel, type ServedModel, writeServedModel } from './served-model.js';
import { type Result, runCase, type Setting, undoAll } from './stage.js';

// The fault suite. Its cases are data; see cases/.

const MODEL_SEED = 71;
const CAPACITY_MS = 1000;
/** In the short form, which may share the machine. */
const SHORT_QPS = 900;
/** In the short form so many cases run side by side that measure no latency, and share the load. */
const LANES = 3;

interface RunOptions {
  readonly case?: RegExp;
  readonly list: boolean;
  readonly long: boolean;
  readonly seed?: number;
  readonly qps?: number;
  readonly out?: string;
}

const program = new Command('npm run chaos --')
  .description('Real processes under faults, and what each case requires of them (docs/reliability.md).')
  .option('--case <pattern>', 'only cases whose names match this regular expression', regularExpression)
  .option('--list', 'print the cases and what they require', false)
  .option('--long', 'longer, one case after another; latencies are judged, too', false)
  .option('--seed <n>', 'of requests and faults (default: another one each time)', positiveInteger)
  .option('--qps <n>', `requests a second (default: half of what is measured, in the short form at most ${SHORT_QPS})`, positiveNumber)
  .option('--out <file>', 'write the results as JSON')
  .addHelpText(
    'after',
    `
Examples:
  npm run chaos -- --case '^kill'
  npm run chaos -- --long --out chaos.json`,
  )
  .parse();
const { seed = 1 + (Date.now() % 1_000_000), case: wanted = /^/, ...values } = program.opts<RunOptions>();
const chosen = CASES.filter((test) => wanted.test(test.name));
if (chosen.length === 0) program.error(`error: no case of this name: ${wanted.source}; --list shows all`);

if (values.list) {
  for (const { name, does, required } of chosen) console.log(`${name}: ${does}\n    required: ${required}`);
  process.exit(0);
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
  process.once(signal, () => {
    void undoAll().finally(() => process.exit(1));
  });

const together = ({ alone }: Case): boolean => !values.long && alone !== true;

const lineOf = ({ verdict, name, seconds, failures }: Result): string =>
  `${verdict.padEnd(8)}${name} (${seconds.toFixed(1)} s)${failures.map((failure) => `\n    ${failure}`).join('')}`;

/** The most that two shards with a replica each answer, on this machine as it is now. */
async function measureCapacity(model: ServedModel): Promise<number> {
  let capacity = 0;
  const measure: Case = {
    name: 'capacity',
    does: '',
    required: '',
    async run(stage: Stage) {
      const { plan } = await ChaosCluster.start(stage);
      capacity = await capacityOf(await openMain(stage, plan), [model], CAPACITY_MS);
    },
  };
  const setting = { seed, long: values.long, qps: 0, capacity: 0, model, support: { cpu: null, network: null } };
  const { failures } = await runCase(measure, setting);
  if (failures.length > 0) throw new Error(`the capacity cannot be measured: ${failures.join('; ')}`);
  return capacity;
}

const model = await writeServedModel(MODEL_SEED);
let failed = 0;
try {
  const capacity = await measureCapacity(model);
  const half = capacity / 2;
  const qps = values.qps ?? (values.long ? half : Math.min(half, SHORT_QPS));
  const setting: Setting = { seed, long: values.long, qps, capacity, model, support: await emulationSupport() };
  console.log(`seed ${seed}, ${Math.round(qps)} requests a second of at most ${Math.round(capacity)}`);
  const ran = new Map<Case, Result>();
  const runOne = async (test: Case): Promise<void> => {
    const result = await runCase(test, { ...setting, qps: together(test) ? qps / LANES : qps });
    ran.set(test, result);
    console.log(lineOf(result));
  };
  const shared = chosen.filter(together);
  await Promise.all(
    Array.from({ length: LANES }, async () => {
      for (let next = shared.shift(); next !== undefined; next = shared.shift()) await runOne(next);
    }),
  );
  for (const test of chosen) if (!ran.has(test)) await runOne(test);
  const results = chosen.flatMap((test) => ran.get(test) ?? []);
  printTable(results);
  const count = (verdict: Result['verdict']): number => results.filter((result) => result.verdict === verdict).length;
  console.log(`${count('holds')} hold, ${count('fails')} fail, ${count('skipped')} skipped, seed ${seed}`);
  failed = count('fails');
  if (values.out !== undefined) await writeResults(values.out, results, setting);
} finally {
  await removeModel(model);
}
// What a case left behind would keep the process alive; that is its failure, which is told by the table.
process.exit(failed > 0 ? 1 : 0);
