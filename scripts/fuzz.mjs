// libFuzzer on the native code, and changed checkpoints against their readers: npm run fuzz -- [--seconds N], 60 s split over the targets by default. What it found before is kept in
// native/build-asan, and so is an input that fails, which `native/build-asan/fuzz_TARGET FILE` repeats.
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { buildSanitized } from './build-native.mjs';
import { install, run } from './prepare.mjs';

const TARGETS = ['key_index', 'pool_message', 'pool_request', 'table_view'];

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '60' } } });
const seconds = Number(values.seconds);
if (!Number.isInteger(seconds) || seconds < 1) {
  console.error(`--seconds has to be an integer of 1 or more: ${values.seconds}`);
  process.exit(2);
}
install();
const { directory, fuzzes } = buildSanitized(
  TARGETS.map((target) => `fuzz_${target}`),
  { fuzz: true },
);
if (!fuzzes) {
  console.error('nothing was fuzzed, clang and its libFuzzer are needed (Debian: apt-get install clang libclang-rt-14-dev)');
  process.exit(1);
}
const share = Math.ceil(seconds / (TARGETS.length + 1));
for (const target of TARGETS) {
  const corpus = join(directory, `corpus-${target}`);
  mkdirSync(corpus, { recursive: true });
  const limit = `-max_total_time=${share}`;
  run(join(directory, `fuzz_${target}`), limit, '-max_len=4096', '-print_final_stats=1', `-artifact_prefix=${directory}/`, corpus);
}
run(process.execPath, '--import', 'tsx', 'scripts/fuzz-checkpoints.ts', '--seconds', String(share));
