// Builds the native data plane with the thread sanitizer and runs it under load: npm run test:tsan -- [SECONDS]
import { join } from 'node:path';
import { buildSanitized } from './build-native.mjs';
import { install, run } from './prepare.mjs';

install();
const { directory } = buildSanitized(['data_plane_test'], { sanitizers: 'thread' });
run(join(directory, 'data_plane_test'), ...process.argv.slice(2));
