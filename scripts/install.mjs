// npm's install script: builds the addon unless a prebuilt one loads here. `npm install --ignore-scripts` passes it over.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { missing } from './preflight.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const require = createRequire(import.meta.url);

function resolves(name) {
  try {
    return require.resolve(name);
  } catch {
    return null;
  }
}

/** Alpine's C library is another one than glibc, and says no version of glibc in the process report. */
const musl = process.platform === 'linux' && process.report.getReport().header.glibcVersionRuntime === undefined;
const prebuilt = join(root, 'prebuilds', `${process.platform}-${process.arch}${musl ? '-musl' : ''}.node`);

/** A prebuilt addon that is there may still be for another libc or a damaged file: only loading it tells. */
function prebuiltLoads() {
  return (
    existsSync(prebuilt) && spawnSync(process.execPath, ['-e', `require(${JSON.stringify(prebuilt)})`], { stdio: 'ignore' }).status === 0
  );
}

// Without dependencies (npm install --package-lock-only) there is nothing to build with, and nothing to do.
const canBuild = resolves('cmake-js/package.json') !== null && resolves('node-addon-api') !== null;
if (!prebuiltLoads() && canBuild) {
  const lines = missing();
  if (lines.length > 0) {
    console.error(`terabag cannot build its native addon:\n  ${lines.join('\n  ')}`);
    process.exit(1);
  }
  const cmakeJs = join(dirname(resolves('cmake-js/package.json')), 'bin', 'cmake-js');
  process.exit(spawnSync(process.execPath, [cmakeJs, 'compile', '--out', 'native/build'], { cwd: root, stdio: 'inherit' }).status ?? 1);
}
