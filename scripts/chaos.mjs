// npm run chaos on a fresh clone: the fault suite.
import { prepare, run } from './prepare.mjs';

prepare();
run('npx', 'tsx', 'test/chaos/run.ts', ...process.argv.slice(2));
