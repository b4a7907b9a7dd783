import { parseArgs } from 'node:util';
import { emulationSupport } from '../../src/lab/index.js';
import type { Case, Stage } from './case.js';
import { CASES } from './cases/index.js';
import { ChaosCluster, openMain } from './cluster.js';
import { capacityOf } from './load.js';
import { printTable, writeResults } from './report.js';
import { removeModel, type ServedModel, writeServedModel } from './served-model.js';
import { type Result, runCase, type Setting, undoAll } from './stage.js';

// The fault suite. Its cases are data; see cases/.

const HELP = `npm run chaos -- [options]: real processes under faults, and what each case requires of them (docs/reliability.md).

  --case PATTERN  only cases whose names match this regular expression
  --list          prints the cases and what they require
  --long          longer, one case after another, and latencies are judged, too
  --seed N        of requests and faults; default another one each time
  --qps Q         requests a second; default half of what is measured, in the short form 900 at most
  --out PATH      writes the results as JSON

examples:
  npm run chaos -- --case '^kill'
  npm run chaos -- --long --out chaos.json`;

const MODEL_SEED = 71;
const CAPACITY_MS = 1000;
/** In the short form, which may share the machine. */
const SHORT_QPS = 900;
/** In the short form so many cases run side by side that measure no latency, and share the load. */
const LANES = 3;

function usage(message: string): never {
  console.error(message);
  process.exit(2);
}

function parsed() {
  try {
    return parseArgs({
      options: {
        long: { type: 'boolean', default: false },
        case: { type: 'string', default: '' },
        list: { type: 'boolean', default: false },
        seed: { type: 'string', default: String(1 + (Date.now() % 1_000_000)) },
        qps: { type: 'string' },
        out: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    return usage(`${(error as Error).message}\n\n${HELP}`);
  }
}

const values = parsed();
if (values.help) {
  console.log(HELP);
  process.exit(0);
}

const seed = Number(values.seed);
if (!Number.isInteger(seed) || seed < 1) usage(`--seed has to be an integer of 1 or more: ${values.seed}`);
const given = values.qps === undefined ? null : Number(values.qps);
if (given !== null && !(given > 0)) usage(`--qps has to be a number above 0: ${values.qps}`);
let pattern: RegExp;
try {
  pattern = new RegExp(values.case);
} catch {
  usage(`--case has to be a regular expression: ${values.case}`);
}
const chosen = CASES.filter((test) => pattern.test(test.name));
if (chosen.length === 0) usage(`no case of this name: ${values.case}; --list shows all`);

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
  const qps = given ?? (values.long ? half : Math.min(half, SHORT_QPS));
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
