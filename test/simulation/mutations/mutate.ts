import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Mutation } from './list.js';

export const ROOT = join(fileURLToPath(import.meta.url), '..', '..', '..', '..');
const COPIED = ['src', 'test/simulation', 'test/reference', 'package.json', 'tsconfig.json'];
const LINKED = ['node_modules', 'native'];

/** A directory in which the simulator runs with sources of its own. */
export function copySources(): string {
  const root = mkdtempSync(join(tmpdir(), 'terabag-mutations-'));
  for (const path of COPIED) cpSync(join(ROOT, path), join(root, path), { recursive: true });
  for (const path of LINKED) symlinkSync(join(ROOT, path), join(root, path));
  return root;
}

export const runSimulator = (root: string, args: readonly string[]): SpawnSyncReturns<string> =>
  spawnSync(process.execPath, ['--import', 'tsx', join(root, 'test', 'simulation', 'run.ts'), ...args], { cwd: root, encoding: 'utf8' });

export function mutated(source: string, { name, file, find, replace }: Mutation): string {
  const found = source.split(find).length - 1;
  if (found !== 1) throw new Error(`${name}: what is to be replaced has to stand once in ${file}, and does ${found} times`);
  return source.replace(find, () => replace);
}
