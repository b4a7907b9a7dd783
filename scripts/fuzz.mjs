// libFuzzer on the native code, and changed checkpoints against their readers: npm run fuzz -- [--seconds N], 60 s for each target by
// default. What it found before is kept in native/build-asan, and so is an input that fails, which `native/build-asan/fuzz_TARGET FILE`
// repeats.
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { buildSanitized } from './build-native.mjs';
import { install, run } from './prepare.mjs';

const TARGETS = {
  // libFuzzer would take memory that libzmq's threads hold at the end of an input for lost; what is lost is seen at the end.
  handshake: ['-detect_leaks=0', '-rss_limit_mb=1024'],
  key_index: [],
  pool_message: [],
  pool_request: [],
  table_view: [],
};

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '60' } } });
const seconds = Number(values.seconds);
if (!Number.isInteger(seconds) || seconds < 1) {
  console.error(`--seconds has to be an integer of 1 or more: ${values.seconds}`);
  process.exit(2);
}
install();
const { directory, fuzzes } = buildSanitized(
  Object.keys(TARGETS).map((target) => `fuzz_${target}`),
  { fuzz: true },
);
if (!fuzzes) {
  console.error('nothing was fuzzed, clang and its libFuzzer are needed (Debian: apt-get install clang libclang-rt-14-dev)');
  process.exit(1);
}
for (const [target, options] of Object.entries(TARGETS)) {
  const corpus = join(directory, `corpus-${target}`);
  mkdirSync(corpus, { recursive: true });
  const limits = [`-max_total_time=${seconds}`, '-max_len=4096', ...options];
  run(join(directory, `fuzz_${target}`), ...limits, '-print_final_stats=1', `-artifact_prefix=${directory}/`, corpus);
}
run(process.execPath, '--import', 'tsx', 'scripts/fuzz-checkpoints.ts', '--seconds', String(seconds));
