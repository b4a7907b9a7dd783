// Builds the addons with the address and undefined-behaviour sanitizers and runs the tests of kernels and sockets on them.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { buildSanitized } from './build-native.mjs';
import { prepare, root, run } from './prepare.mjs';

const TESTS = ['test/kernels', 'test/unit/engine', 'test/unit/rpc/transport/sockets.test.ts', 'test/integration/hostile-peers.test.ts'];

prepare();
const { directory, compiler } = buildSanitized(['terabag']);
const runtime = compiler.startsWith('clang') ? 'libclang_rt.asan-x86_64.so' : 'libasan.so';
const name = process.arch === 'arm64' ? runtime.replace('x86_64', 'aarch64') : runtime;
Object.assign(process.env, {
  TERABAG_ADDON: join(directory, 'Release', 'terabag.node'),
  LD_PRELOAD: spawnSync(compiler, [`-print-file-name=${name}`], { encoding: 'utf8' }).stdout.trim(),
  // Node keeps memory until it exits, so that leaks cannot be told from it.
  ASAN_OPTIONS: 'detect_leaks=0',
});
run(process.execPath, join(root, 'node_modules', 'vitest', 'vitest.mjs'), 'run', ...TESTS, ...process.argv.slice(2));
