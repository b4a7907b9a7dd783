// How CMake is run; no dependencies.
import { spawnSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

function run(command, args) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  if (error) console.error(error.message);
  if (status !== 0) process.exit(status ?? 1);
}

/** Builds targets of CMakeLists.txt (none named: the addons) into a directory; ends this process when that fails. */
export function buildNative(directory, { options = {}, targets = [] } = {}) {
  run('cmake', ['-S', '.', '-B', directory, ...Object.entries(options).map(([name, value]) => `-D${name}=${value}`)]);
  // As many as there are cores: without a number, make starts all at once.
  const parallel = ['--parallel', String(availableParallelism())];
  run('cmake', ['--build', directory, ...parallel, ...(targets.length > 0 ? ['--target', ...targets] : [])]);
}

/**
 * Builds targets with sanitizers, those of addresses and undefined behaviour unless others are named: by clang, whose objects serve the fuzz
 * targets too, else by g++. Builds nothing when only clang will do (fuzz) and it is not there.
 */
export function buildSanitized(targets, { fuzz = false, sanitizers = 'address,undefined' } = {}) {
  const directory = join(root, 'native', sanitizers === 'thread' ? 'build-tsan' : 'build-asan');
  const runs = (name) => spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0;
  const clang = ['clang++', 'clang++-19', 'clang++-14'].find(runs);
  const compiler = clang ?? 'g++';
  const options = {
    ...{ TERABAG_SANITIZE: sanitizers, TERABAG_FUZZ: clang && sanitizers !== 'thread' ? 'ON' : 'OFF', CMAKE_CXX_COMPILER: compiler },
    CMAKE_CXX_FLAGS_RELEASE: '-O1 -DNDEBUG',
  };
  if (clang || !fuzz) buildNative(directory, { options, targets });
  return { directory, compiler, fuzzes: clang !== undefined };
}
