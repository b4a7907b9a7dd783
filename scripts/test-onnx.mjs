// Tests of models whose dense part is ONNX, with onnxruntime-node: that of TERABAG_ONNXRUNTIME (the package's directory), or one that is installed
// outside the checkout first. It is no dependency of the package, whose installation would grow by 290 MB for all.
import { existsSync, mkdirSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { prepare, run } from './prepare.mjs';

/** Where npm run bench -- SUITE --peers has it too. */
const target = join(
  process.env.TERABAG_BENCH_PEERS ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'terabag', 'peers'),
  'ort',
);

prepare();
if (!process.env.TERABAG_ONNXRUNTIME) {
  const directory = join(target, 'node_modules', 'onnxruntime-node');
  if (!existsSync(directory)) {
    mkdirSync(target, { recursive: true });
    // Its install script fetches GPU libraries; the CPU's are in the package.
    run('npm', 'install', '--ignore-scripts', '--no-audit', '--no-fund', '--prefix', target, 'onnxruntime-node@^1.30.0');
  }
  process.env.TERABAG_ONNXRUNTIME = directory;
}
run('npx', 'vitest', 'run', 'onnx', ...process.argv.slice(2));
