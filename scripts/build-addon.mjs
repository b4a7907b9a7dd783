// Builds the addons from source, where no prebuilt one fits: node node_modules/terabag/scripts/build-addon.mjs, or npm run build:native in a
// checkout. An installation has no headers of Node-API: they are fetched from npm, into native/build.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildNative } from './build-native.mjs';
import { missing } from './preflight.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const require = createRequire(import.meta.url);
const HEADERS = ['node-addon-api', 'node-api-headers'];

function resolves(name) {
  try {
    return require.resolve(name) !== '';
  } catch {
    return false;
  }
}

const lines = missing();
if (lines.length > 0) {
  console.error(`terabag cannot build its addons:\n  ${lines.join('\n  ')}`);
  process.exit(1);
}
if (!HEADERS.every(resolves)) {
  const { devDependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const directory = join(root, 'native', 'build', 'headers');
  const packages = HEADERS.map((name) => `${name}@${devDependencies[name]}`);
  console.log(`fetching ${packages.join(', ')}`);
  const { status } = spawnSync(
    'npm',
    ['install', '--prefix', directory, '--no-save', '--ignore-scripts', '--no-audit', '--no-fund', ...packages],
    {
      stdio: 'inherit',
      shell: process.platform === 'win32',
    },
  );
  if (status !== 0) process.exit(status ?? 1);
  // CMake asks Node.js where they are.
  process.env.NODE_PATH = [join(directory, 'node_modules'), process.env.NODE_PATH].filter(Boolean).join(delimiter);
}
buildNative(join(root, 'native', 'build'));
