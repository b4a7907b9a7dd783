// Builds the addon with the address and undefined-behaviour sanitizers and runs the tests of its kernels and sockets on it.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { root, run } from './prepare.mjs';

const TESTS = ['test/kernels', 'test/unit/engine', 'test/unit/rpc/transport/sockets.test.ts', 'test/integration/hostile-peers.test.ts'];

run('npm', 'run', 'build:asan');
Object.assign(process.env, {
  TERABAG_ADDON: join(root, 'native', 'build-asan', 'Release', 'terabag.node'),
  LD_PRELOAD: spawnSync('g++', ['-print-file-name=libasan.so'], { encoding: 'utf8' }).stdout.trim(),
  // Node keeps memory until it exits, so that leaks cannot be told from it.
  ASAN_OPTIONS: 'detect_leaks=0',
});
run(process.execPath, join('node_modules', 'vitest', 'vitest.mjs'), 'run', ...TESTS, ...process.argv.slice(2));
