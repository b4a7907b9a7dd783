// Makes a fresh clone ready to run: checks the machine, installs, builds. No dependencies.
import { spawnSync } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { missing } from './preflight.mjs';

export const root = join(dirname(fileURLToPath(import.meta.url)), '..');

/** Runs a command in the checkout; ends this process with its exit code when it fails. */
export function run(command, ...args) {
  const { status } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}

function installed() {
  const record = join(root, 'node_modules', '.package-lock.json');
  return existsSync(record) && statSync(record).mtimeMs >= statSync(join(root, 'package-lock.json')).mtimeMs;
}

/** What builds need: a compiler, and the packages. */
export function install() {
  const lines = missing();
  if (lines.length > 0) {
    console.error(`terabag needs more on this machine:\n  ${lines.join('\n  ')}`);
    process.exit(1);
  }
  if (!installed()) run('npm', 'ci', '--ignore-scripts');
}

export function prepare() {
  install();
  run('npm', 'run', '--silent', 'build:native');
  run('npm', 'run', '--silent', 'build:ts');
}
