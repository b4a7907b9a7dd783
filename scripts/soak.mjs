// npm run soak on a fresh clone: load and random faults for as long as is asked.
import { prepare, run } from './prepare.mjs';

prepare();
run(process.execPath, '--expose-gc', '--import', 'tsx', 'test/chaos/soak.ts', ...process.argv.slice(2));
