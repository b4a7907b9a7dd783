// Breaks the sources in one place at a time, and looks whether the simulator finds it: npm run simulate:mutations -- [--only TEXT] [--requests N] [--jobs J].
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { positiveInteger } from '../../../src/cli/options.js';
import { MUTATIONS } from './list.js';
import { copySources, mutated, runSimulator } from './mutate.js';

const SECONDS = 120;

interface RunOptions {
  readonly only: string;
  readonly requests: number;
  readonly seed: number;
  readonly jobs: number;
}

const { only, requests, seed, jobs } = new Command('npm run simulate:mutations --')
  .description('Breaks the sources in one place at a time, and looks whether the simulator finds it.')
  .option('--only <text>', 'mutations whose names contain this', '')
  .option('--requests <n>', 'of each mutation, at most', positiveInteger, 400_000)
  .option('--seed <n>', 'the first', positiveInteger, 1)
  .option('--jobs <n>', 'processes', positiveInteger, availableParallelism())
  .addHelpText('after', '\nExample:\n  npm run simulate:mutations -- --only retry')
  .parse()
  .opts<RunOptions>();

/** The invariant that broke, as the simulator says it; null when none did. */
function brokenIn(root: string): string | null {
  const limits = ['--seed', seed, '--requests', requests, '--jobs', jobs, '--seconds', SECONDS].map(String);
  const { stdout, stderr, status } = runSimulator(root, limits);
  const broken = /breaks an invariant, after [\d.]+ virtual ms: (\S+)/.exec(stdout)?.[1] ?? null;
  if (broken === null && status !== 0) throw new Error(`the simulator ended with ${status}: ${stderr}`);
  return broken;
}

const root = copySources();
let missed = 0;
try {
  for (const mutation of MUTATIONS.filter(({ name }) => name.includes(only))) {
    const path = join(root, mutation.file);
    const source = readFileSync(path, 'utf8');
    writeFileSync(path, mutated(source, mutation));
    const broken = brokenIn(root);
    writeFileSync(path, source);
    const found = broken !== null && mutation.breaks.some((invariant) => invariant === broken);
    if (!found) missed++;
    const verdict = found ? broken : broken === null ? 'NOT FOUND' : `${broken}, which is not one of ${mutation.breaks.join(', ')}`;
    console.log(`${mutation.name}: ${verdict}`);
  }
} finally {
  rmSync(root, { recursive: true, force: true });
}
process.exitCode = missed > 0 ? 1 : 0;
