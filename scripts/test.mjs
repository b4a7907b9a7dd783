// npm test on a fresh clone.
import { prepare, run } from './prepare.mjs';

prepare();
run('npx', 'vitest', 'run', ...process.argv.slice(2));
