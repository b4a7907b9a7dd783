// npm run demo on a fresh clone.
import { join } from 'node:path';
import { prepare, root, run } from './prepare.mjs';

prepare();
run(process.execPath, join(root, 'dist', 'cli', 'main.js'), 'demo', ...process.argv.slice(2));
