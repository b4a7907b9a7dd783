import { Command } from 'commander';
import { type Calibration, calibrate } from '../lab/calibrate/calibrate.js';
import { describeMachine, machineLine } from '../lab/report/machine.js';
import { type Costs, writeCosts } from '../plan/predict/costs.js';
import { refuseUnwritable } from '../tables/atomic.js';
import { further } from './help.js';
import { withProgress } from './progress.js';
import { figure, numeric, printTable, text } from './table.js';

interface CalibrateOptions {
  readonly output?: string;
  readonly quick: boolean;
  readonly json?: boolean;
}

export const calibrateCommand = new Command('calibrate')
  .description('measure what work costs on this machine, for predictions of plans')
  .option('-o, --output <file>', 'the costs file to write, for terabag plan --costs')
  .option('--quick', 'some seconds: shows that it works, its costs are not for use', false)
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    further(`
About two and a half minutes, in which nothing else should run here: lookups in every row format from caches and from memory, dense layers, then whole requests
on up to 8 real shards over loopback, one at a time. The costs are those that explain the measured requests best; the last table compares.
Costs of messages hold for this machine's loopback. sharedCores says that main shard and sparse shards share the cores, as they did here: write
null there where each has a machine of its own.

Examples:
  terabag calibrate -o costs.json
  terabag plan ./model --strategy auto --shards 8 --memory-limit 48GiB --costs costs.json -o plan.json`),
  )
  .action(async ({ output, quick, json }: CalibrateOptions) => {
    const machine = `${machineLine(describeMachine())}, ${new Date().toISOString().slice(0, 10)}`;
    if (output !== undefined) await refuseUnwritable('--output', output);
    const calibration = await withProgress('measuring', 'steps', (onProgress) =>
      calibrate({ machine, effort: quick ? 'quick' : 'full', onProgress }),
    );
    if (output !== undefined) await writeCosts(output, calibration.costs);
    if (json) console.log(JSON.stringify(calibration));
    else print(calibration);
  });

const rounded = (value: number | null): string => (value === null ? 'none' : String(Number(value.toPrecision(3))));
const percent = (predicted: number, measured: number): string => (100 * (predicted / measured - 1)).toFixed(0);

function print({ costs, trials }: Calibration): void {
  console.log(`measured on ${costs.machine}\n`);
  printTable(costs.lookups, [
    text('row format', ({ format }) => format),
    numeric('dim', ({ dim }) => dim),
    figure('from memory, ns per row', ({ ns }) => rounded(ns)),
    figure('in cache, ns per row', ({ inCacheNs }) => rounded(inCacheNs)),
  ]);
  console.log();
  printTable(flat(costs), [text('cost', ({ cost }) => cost), figure('value', ({ value }) => rounded(value))]);
  console.log();
  printTable(trials, [
    text('requests', ({ name }) => name),
    numeric('CPU, us', ({ cpuUs }) => cpuUs),
    figure('by the costs, %', ({ cpuUs, predictedCpuUs }) => percent(predictedCpuUs, cpuUs)),
    numeric('P50, us', ({ p50Us }) => p50Us),
    figure('by the costs, %', ({ p50Us, predictedP50Us }) => percent(predictedP50Us, p50Us)),
  ]);
}

/** One row a cost: "main.usPerRpc". */
function flat({ pool, dense, main, shard, latency, cacheBytes, sharedCores }: Costs): { cost: string; value: number | null }[] {
  const groups = Object.entries({ pool, dense, main, shard, latency });
  const rows = groups.flatMap(([group, costs]) => Object.entries(costs).map(([name, value]) => ({ cost: `${group}.${name}`, value })));
  return [{ cost: 'sharedCores', value: sharedCores }, { cost: 'cacheBytes', value: cacheBytes }, ...rows];
}
