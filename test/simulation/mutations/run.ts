// Breaks the sources in one place at a time, and looks whether the simulator finds it: npm run simulate:mutations -- [--only TEXT] [--requests N].
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { MUTATIONS, type Mutation } from './list.js';

const ROOT = join(fileURLToPath(import.meta.url), '..', '..', '..', '..');
const COPIED = ['src', 'test/simulation', 'package.json', 'tsconfig.json'];
const LINKED = ['node_modules', 'native'];
const SECONDS = 120;

const { values } = parseArgs({
  options: {
    only: { type: 'string', default: '' },
    requests: { type: 'string', default: '400000' },
    seed: { type: 'string', default: '1' },
  },
});

function mutate(root: string, { name, file, find, replace }: Mutation): () => void {
  const path = join(root, file);
  const source = readFileSync(path, 'utf8');
  const found = source.split(find).length - 1;
  if (found !== 1) throw new Error(`${name}: what is to be replaced has to stand once in ${file}, and does ${found} times`);
  writeFileSync(
    path,
    source.replace(find, () => replace),
  );
  return () => writeFileSync(path, source);
}

/** The invariant that broke, as the simulator says it; null when none did. */
function brokenIn(root: string): string | null {
  const args = ['--import', 'tsx', join(root, 'test', 'simulation', 'run.ts')];
  const limits = ['--seed', values.seed, '--requests', values.requests, '--seconds', String(SECONDS)];
  const { stdout, stderr, status } = spawnSync(process.execPath, [...args, ...limits], { cwd: root, encoding: 'utf8' });
  const broken = /breaks an invariant, after [\d.]+ virtual ms: (\S+)/.exec(stdout)?.[1] ?? null;
  if (broken === null && status !== 0) throw new Error(`the simulator ended with ${status}: ${stderr}`);
  return broken;
}

const root = mkdtempSync(join(tmpdir(), 'terabag-mutations-'));
let missed = 0;
try {
  for (const path of COPIED) cpSync(join(ROOT, path), join(root, path), { recursive: true });
  for (const path of LINKED) symlinkSync(join(ROOT, path), join(root, path));
  for (const mutation of MUTATIONS.filter(({ name }) => name.includes(values.only))) {
    const restore = mutate(root, mutation);
    const broken = brokenIn(root);
    restore();
    const found = broken !== null && mutation.breaks.some((invariant) => invariant === broken);
    if (!found) missed++;
    const verdict = found ? broken : broken === null ? 'NOT FOUND' : `${broken}, which is not one of ${mutation.breaks.join(', ')}`;
    console.log(`${mutation.name}: ${verdict}`);
  }
} finally {
  rmSync(root, { recursive: true, force: true });
}
process.exitCode = missed > 0 ? 1 : 0;
