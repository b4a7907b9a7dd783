// npm test on a fresh clone: checks the machine, installs, builds, runs the tests. No dependencies.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { missing } from './preflight.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

function run(command, ...args) {
  const { status } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}

const lines = missing();
if (lines.length > 0) {
  console.error(`the tests need more on this machine:\n  ${lines.join('\n  ')}`);
  process.exit(1);
}
if (!existsSync(join(root, 'node_modules', '.package-lock.json'))) run('npm', 'install', '--no-save', '--ignore-scripts');
run('npm', 'run', 'build:native');
run('npm', 'run', 'build:ts');
run('npx', 'vitest', 'run', ...process.argv.slice(2));
