// npm run bench on a fresh clone.
import { prepare, run } from './prepare.mjs';

prepare();
run('npx', 'tsx', 'bench/run.ts', ...process.argv.slice(2));
