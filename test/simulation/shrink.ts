import type { Scenario, Settings } from './scenario.js';
import { type Outcome, simulate } from './simulation.js';
import type { Invariant } from './violations.js';

export interface ShrinkOptions {
  readonly invariant: Invariant;
  /** Real ms to spend. */
  readonly budgetMs: number;
}

export interface Shrunk {
  readonly scenario: Scenario;
  readonly outcome: Outcome;
  readonly runs: number;
}

/** What a scenario is simpler with, tried one by one. */
const SIMPLER: readonly Partial<Settings>[] = [
  { pauses: { chance: 0, maxMs: 1 } },
  { jitterMs: 0 },
  { shards: 1 },
  { replicas: 1 },
  { replicas: 2 },
  { sockets: 'native' },
  { highWaterMark: 4096 },
  { maxInFlight: 1024 },
  { maxPooling: 16 },
  { service: { on: 'threads', ms: 0.1, tailMs: 0 } },
  { delayMs: 1 },
];

/** Makes a failing scenario smaller while it breaks the same invariant: delta debugging of its faults and requests, and simpler settings. */
export async function shrink(given: Scenario, { invariant, budgetMs }: ShrinkOptions): Promise<Shrunk> {
  const until = performance.now() + budgetMs;
  let runs = 0;
  const fails = async (scenario: Scenario): Promise<boolean> => {
    if (performance.now() > until) return false;
    runs++;
    return (await simulate(scenario)).violation?.invariant === invariant;
  };
  let scenario = await shorter(given, fails);
  for (let size = Number.POSITIVE_INFINITY; sizeOf(scenario) < size; ) {
    size = sizeOf(scenario);
    scenario = { ...scenario, requests: await fewer(scenario.requests, (requests) => fails({ ...scenario, requests })) };
    scenario = { ...scenario, faults: await fewer(scenario.faults, (faults) => fails({ ...scenario, faults })) };
    scenario = await simpler(scenario, fails);
  }
  return { scenario, outcome: await simulate(scenario, true), runs };
}

const sizeOf = ({ faults, requests }: Scenario): number => faults.length + requests.length;

/** Without all that comes after the violation. */
async function shorter(given: Scenario, fails: (scenario: Scenario) => Promise<boolean>): Promise<Scenario> {
  const { violation } = await simulate(given);
  const before = ({ at }: { readonly at: number }): boolean => violation === null || at <= violation.at;
  const tried = { ...given, faults: given.faults.filter(before), requests: given.requests.filter(before) };
  return (await fails(tried)) ? tried : given;
}

async function simpler(given: Scenario, fails: (scenario: Scenario) => Promise<boolean>): Promise<Scenario> {
  let scenario = given;
  for (const change of SIMPLER) {
    const settings = { ...scenario.settings, ...change };
    if (JSON.stringify(settings) === JSON.stringify(scenario.settings)) continue;
    const tried = { ...scenario, settings };
    if (await fails(tried)) scenario = tried;
  }
  return scenario;
}

/** Leaves out chunks, of halves first and of single ones last. */
async function fewer<T>(given: readonly T[], fails: (kept: readonly T[]) => Promise<boolean>): Promise<readonly T[]> {
  let kept = given;
  for (let chunk = Math.ceil(kept.length / 2); chunk >= 1; chunk = chunk === 1 ? 0 : Math.ceil(chunk / 2)) {
    for (let from = 0; from < kept.length; ) {
      const without = [...kept.slice(0, from), ...kept.slice(from + chunk)];
      if (await fails(without)) kept = without;
      else from += chunk;
    }
  }
  return kept;
}
