// Native tests, without Node: here, under sanitizers, and for arm64 under an emulator. What a machine cannot run is said and passed over.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { root, run } from './prepare.mjs';

const has = (command) => spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0;

function build(directory, ...options) {
  const out = join('native', directory);
  run('cmake', '-S', '.', '-B', out, '-DTERABAG_TESTS=ON', ...options);
  run('cmake', '--build', out, '--parallel');
  return (program) => join(root, out, program);
}

process.env.TERABAG_TEST_CASES ??= '1000';
for (const built of [build('build-test'), build('build-test-asan', '-DTERABAG_SANITIZE=ON')])
  for (const program of ['kernels_test', 'frame_switch_test']) run(built(program));
if (process.arch === 'arm64') process.exit(0);
const missing = [
  ['aarch64-linux-gnu-g++', 'g++-aarch64-linux-gnu'],
  ['qemu-aarch64', 'qemu-user'],
].filter(([command]) => !has(command));
if (missing.length > 0) {
  console.log(`NEON kernels were not tested: apt-get install ${missing.map(([, name]) => name).join(' ')}`);
} else {
  const cross = ['-DCMAKE_SYSTEM_NAME=Linux', '-DCMAKE_SYSTEM_PROCESSOR=aarch64', '-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++'];
  process.env.TERABAG_TEST_CASES = '200';
  run('qemu-aarch64', build('build-test-neon', ...cross, '-DCMAKE_EXE_LINKER_FLAGS=-static')('kernels_test'));
}
