// Breaks the sources in one place at a time, and looks whether the simulator finds it: npm run simulate:mutations -- [--only TEXT] [--requests N] [--jobs J].
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { MUTATIONS } from './list.js';
import { copySources, mutated, runSimulator } from './mutate.js';

const SECONDS = 120;

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: '' },
    requests: { type: 'string', default: '400000' },
    seed: { type: 'string', default: '1' },
    jobs: { type: 'string', default: String(availableParallelism()) },
  },
});

/** The invariant that broke, as the simulator says it; null when none did. */
function brokenIn(root: string): string | null {
  const limits = ['--seed', values.seed, '--requests', values.requests, '--jobs', values.jobs, '--seconds', String(SECONDS)];
  const { stdout, stderr, status } = runSimulator(root, limits);
  const broken = /breaks an invariant, after [\d.]+ virtual ms: (\S+)/.exec(stdout)?.[1] ?? null;
  if (broken === null && status !== 0) throw new Error(`the simulator ended with ${status}: ${stderr}`);
  return broken;
}

const root = copySources();
let missed = 0;
try {
  for (const mutation of MUTATIONS.filter(({ name }) => name.includes(values.only))) {
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
