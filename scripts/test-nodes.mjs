// Runs the unit tests on other releases of Node.js, from npm: npm run test:nodes -- [22 24], both by default.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { prepare, root, run } from './prepare.mjs';

prepare();
const releases = process.argv.length > 2 ? process.argv.slice(2) : ['22', '24'];
const name = `node-${process.platform}-${process.arch}`;
for (const release of releases) {
  const prefix = join(root, 'node_modules', '.cache', 'terabag', `node-${release}`);
  run('npm', 'install', '--silent', '--prefix', prefix, '--no-save', '--ignore-scripts', '--no-audit', '--no-fund', `${name}@${release}`);
  const node = join(prefix, 'node_modules', name, 'bin', 'node');
  console.log(`unit tests on Node.js ${spawnSync(node, ['--version'], { encoding: 'utf8' }).stdout.trim()}`);
  run(node, join(root, 'node_modules', 'vitest', 'vitest.mjs'), 'run', 'test/unit');
}
