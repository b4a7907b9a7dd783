// libFuzzer on the native code: npm run fuzz -- [--seconds N], 60 s split over the targets by default. What it found before is kept in
// native/build-fuzz, and so is an input that fails, which `native/build-fuzz/TARGET FILE` repeats.
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { root, run } from './prepare.mjs';

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '60' } } });
const seconds = Number(values.seconds);
if (!Number.isInteger(seconds) || seconds < 1) {
  console.error(`--seconds has to be an integer of 1 or more: ${values.seconds}`);
  process.exit(2);
}
const compiler = ['clang++', 'clang++-19', 'clang++-14'].find((name) => spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0);
if (compiler === undefined) {
  console.log('nothing was fuzzed: apt-get install clang');
  process.exit(0);
}
const out = join('native', 'build-fuzz');
run('cmake', '-S', '.', '-B', out, '-DTERABAG_FUZZ=ON', '-DTERABAG_SANITIZE=ON', `-DCMAKE_CXX_COMPILER=${compiler}`);
run('cmake', '--build', out, '--parallel');
const targets = ['pool_message', 'pool_request', 'table_view'];
for (const target of targets) {
  const corpus = join(root, out, `corpus-${target}`);
  mkdirSync(corpus, { recursive: true });
  const limit = `-max_total_time=${Math.ceil(seconds / targets.length)}`;
  run(join(root, out, target), limit, '-max_len=4096', '-print_final_stats=1', `-artifact_prefix=${join(root, out)}/`, corpus);
}
