// Builds the addon with the address and undefined-behaviour sanitizers and runs the tests of its kernels and sockets on it.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

function run(command, args, env = {}) {
  const { status } = spawnSync(command, args, { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } });
  if (status !== 0) process.exit(status ?? 1);
}

run('npm', ['run', 'build:asan']);
const libasan = spawnSync('g++', ['-print-file-name=libasan.so'], { encoding: 'utf8' }).stdout.trim();
const tests = ['test/kernels', 'test/unit/engine', 'test/unit/wire/sockets.test.ts', 'test/integration/hostile-peers.test.ts'].filter(
  (path) => existsSync(join(root, path)),
);
// Node keeps memory until it exits, so that leaks cannot be told from it.
run(process.execPath, [join(root, 'node_modules', 'vitest', 'vitest.mjs'), 'run', ...tests, ...process.argv.slice(2)], {
  TERABAG_ADDON: join(root, 'native', 'build-asan', 'Release', 'terabag.node'),
  LD_PRELOAD: libasan,
  ASAN_OPTIONS: 'detect_leaks=0',
});
