// Builds the addon for the platforms that the package has it prebuilt for, into prebuilds/: npm run build:prebuilt -- [linux-x64 ...], all by default.
// Runs on Linux and macOS, and takes clang, libc++ and the C libraries of all targets from PyPI's ziglang.
import { spawn } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { buildNative } from './build-native.mjs';
import { install, root, run } from './prepare.mjs';

const ZIG_VERSION = '0.17.1';
/** glibc 2.28 is that of Debian 10, RHEL 8 and Node 20's own builds. */
export const TARGETS = {
  'linux-x64': 'x86_64-linux-gnu.2.28',
  'linux-arm64': 'aarch64-linux-gnu.2.28',
  'linux-x64-musl': 'x86_64-linux-musl',
  'linux-arm64-musl': 'aarch64-linux-musl',
};
const work = join(root, 'native', 'build-prebuilt');

/** Python of a virtual environment, which zig() makes. */
export const python = join(work, 'python', 'bin', 'python');

/** The compiler driver, installed once. */
function installZig() {
  if (!existsSync(python)) run('python3', '-m', 'venv', join(work, 'python'));
  run(python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', `ziglang==${ZIG_VERSION}`);
}

/** Builds the addon of one platform, and, with tests, its kernels_test. */
function build(platform, { tests }) {
  process.env.ZIG_GLOBAL_CACHE_DIR = join(work, 'cache');
  const directory = join(work, platform);
  const options = {
    CMAKE_SYSTEM_NAME: 'Linux',
    CMAKE_SYSTEM_PROCESSOR: TARGETS[platform].split('-')[0],
    // Stripped or not, in all that is linked: the driver builds its C++ library anew for each, a minute.
    CMAKE_CXX_COMPILER: `${python};-m;ziglang;c++;-target;${TARGETS[platform]};-s`,
  };
  buildNative(directory, { options, targets: tests ? ['terabag', 'kernels_test'] : ['terabag'] });
  copyFileSync(join(directory, 'Release', 'terabag.node'), join(root, 'prebuilds', `${platform}.node`));
}

/** The native tests of a platform, after buildAll with tests. */
export const kernelsTest = (platform) => join(work, platform, 'kernels_test');

/** Ends with its exit code. Its output comes whole, when it ends: others run beside it. */
function buildApart(platform, tests) {
  const child = spawn(process.execPath, [import.meta.filename, '--one', ...(tests ? ['--tests'] : []), platform], { cwd: root });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text));
  return new Promise((resolve) => {
    child.on('close', (code) => {
      console.log(`${output}${platform}: ${code === 0 ? 'built' : `failed (${code})`}`);
      resolve(code ?? 1);
    });
  });
}

/** Builds platforms side by side, each in a process of its own: a driver that builds its C++ library leaves all cores but one idle. */
export async function buildAll(platforms, { tests = false } = {}) {
  install();
  installZig();
  mkdirSync(join(root, 'prebuilds'), { recursive: true });
  const waiting = [...platforms];
  const one = async () => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const code = await buildApart(next, tests);
      if (code !== 0) process.exit(code);
    }
  };
  await Promise.all(Array.from({ length: Math.min(availableParallelism(), platforms.length) }, one));
}

/** Platforms of a command line, all when it names none; ends this process when there is no such platform. */
export function platformsOf(names) {
  const unknown = names.find((name) => !Object.hasOwn(TARGETS, name));
  if (unknown !== undefined) {
    console.error(`there is no such prebuilt addon, but ${Object.keys(TARGETS).join(', ')}: ${unknown}`);
    process.exit(2);
  }
  return names.length > 0 ? names : Object.keys(TARGETS);
}

if (process.argv[1] === import.meta.filename) {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { one: { type: 'boolean' }, tests: { type: 'boolean' } } });
  const platforms = platformsOf(positionals);
  if (values.one) for (const platform of platforms) build(platform, { tests: values.tests });
  else await buildAll(platforms);
}
