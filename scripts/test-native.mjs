// Native tests, without Node.js: as they are, and under sanitizers. Those of the prebuilt kernels, NEON included: scripts/test-prebuilds.mjs.
import { join } from 'node:path';
import { buildNative, buildSanitized } from './build-native.mjs';
import { install, root, run } from './prepare.mjs';

const TESTS = ['kernels_test', 'frame_switch_test'];

install();
process.env.TERABAG_TEST_CASES ??= '1000';
const plain = join(root, 'native', 'build');
buildNative(plain, { targets: TESTS });
const { directory: sanitized } = buildSanitized(TESTS);
for (const directory of [plain, sanitized]) for (const test of TESTS) run(join(directory, test));
