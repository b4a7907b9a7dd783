import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Costs } from '../../plan/predict/costs.js';
import { predictPlan } from '../../plan/predict/predict-plan.js';
import { outputError } from '../../tables/atomic.js';
import { randomRows, SeededNumbers } from '../generate/synthetic-values.js';
import { calibrateEngine, type EngineCosts, STEPS_OF_ENGINE } from './calibrate-engine.js';
import { type Measured, measureTrials, QUICK_TRIALS, TRIALS, type TrialEffort } from './calibrate-requests.js';
import { fitCosts } from './fit-costs.js';

export interface Calibration {
  readonly costs: Costs;
  /** What the fit is made from, with what the costs say of it. */
  readonly trials: readonly {
    readonly name: string;
    readonly mainCpuUs: number;
    /** Summed over all shards. */
    readonly shardCpuUs: number;
    readonly cpuUs: number;
    readonly predictedCpuUs: number;
    readonly p50Us: number;
    readonly predictedP50Us: number;
  }[];
}

export interface CalibrateOptions {
  /** Goes into the costs: what they are measured on. */
  readonly machine: string;
  /** Default full; quick shows in some seconds that it works, and its costs are not for use. */
  readonly effort?: 'full' | 'quick';
  readonly onProgress?: (done: number, total: number) => void;
}

interface Effort extends TrialEffort {
  /** Bytes of the file whose rows are looked up; more than caches hold. */
  readonly rowsBytes: number;
  readonly idsPerRound: number;
}

const MIB = 2 ** 20;
const EFFORTS: Readonly<Record<'full' | 'quick', Effort>> = {
  full: {
    ...{ rowsBytes: 256 * MIB, idsPerRound: 2 ** 19 },
    ...{ trials: TRIALS, tablesBytes: 128 * MIB, startMs: 1500, warmUpMs: 60, rounds: 3, measuredMs: 300, fewestRequests: 60 },
  },
  quick: {
    ...{ rowsBytes: 4 * MIB, idsPerRound: 2 ** 13 },
    ...{ trials: QUICK_TRIALS, tablesBytes: MIB, startMs: 50, warmUpMs: 10, rounds: 1, measuredMs: 30, fewestRequests: 5 },
  },
};
const SEED = 17;

/** Measures what work costs on this machine: the engine alone, then whole requests on shards over loopback. About two and a half minutes. */
export async function calibrate({ machine, effort = 'full', onProgress = () => undefined }: CalibrateOptions): Promise<Calibration> {
  const sizes = EFFORTS[effort];
  const total = STEPS_OF_ENGINE + sizes.trials.length * sizes.rounds;
  let done = 0;
  const onStep = (): void => onProgress(++done, total);
  const dir = await mkdtemp(join(tmpdir(), 'terabag-')).catch((error: unknown) => {
    throw outputError(error, tmpdir());
  });
  try {
    const engine = await measureEngine(join(dir, 'rows'), sizes, onStep);
    const measured = await measureTrials(dir, sizes, onStep);
    const costs = fitCosts(machine, availableParallelism(), engine, measured);
    return { costs, trials: measured.map((trial) => compare(trial, costs)) };
  } catch (error) {
    throw outputError(error, dir, 'no room left for the tables that are measured; make room, or set TMPDIR to a directory elsewhere');
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

async function measureEngine(path: string, { rowsBytes, idsPerRound }: Effort, onStep: () => void): Promise<EngineCosts> {
  await writeFile(path, randomRows('fp32', rowsBytes / 4, 0, new SeededNumbers(SEED)));
  const costs = await calibrateEngine({ path, byteOffset: 0, bytes: rowsBytes, idsPerRound }, onStep);
  await rm(path);
  return costs;
}

function compare({ trial, planned, plan, profile, mainCpuUs, shardCpuUs, p50Us }: Measured, costs: Costs): Calibration['trials'][number] {
  const predicted = predictPlan(planned, plan, profile, costs);
  const name = `${trial.tables} tables of dim ${trial.dim}, ${trial.items} x ${trial.bagSize} ids, ${trial.shards} shards${trial.rowWise ? ', row-wise' : ''}`;
  return {
    name,
    mainCpuUs,
    shardCpuUs,
    cpuUs: mainCpuUs + shardCpuUs,
    predictedCpuUs: predicted.cpuUs,
    p50Us,
    predictedP50Us: predicted.p50Us,
  };
}
