// Builds the addon for the platforms that the package has it prebuilt for, into prebuilds/: npm run build:prebuilt -- [linux-x64 ...], all by default.
// Runs on Linux and macOS, and takes clang, libc++ and the C libraries of all targets from PyPI's ziglang.
import { copyFileSync, existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { buildNative } from './build-native.mjs';
import { root, run } from './prepare.mjs';

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
function zig() {
  if (!existsSync(python)) run('python3', '-m', 'venv', join(work, 'python'));
  run(python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', `ziglang==${ZIG_VERSION}`);
  return `${python};-m;ziglang`;
}

/** Directory of what is built for a platform; targets are CMake's. */
export function buildFor(platform, ...targets) {
  process.env.ZIG_GLOBAL_CACHE_DIR = join(work, 'cache');
  const directory = join(work, platform);
  const processor = TARGETS[platform].split('-')[0];
  const options = {
    CMAKE_SYSTEM_NAME: 'Linux',
    CMAKE_SYSTEM_PROCESSOR: processor,
    CMAKE_CXX_COMPILER: `${zig()};c++;-target;${TARGETS[platform]}`,
    CMAKE_MODULE_LINKER_FLAGS: '-s',
  };
  buildNative(directory, { options, targets });
  return directory;
}

if (process.argv[1] === import.meta.filename) {
  const platforms = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(TARGETS);
  const unknown = platforms.find((platform) => !Object.hasOwn(TARGETS, platform));
  if (unknown !== undefined) {
    console.error(`there is no such prebuilt addon, but ${Object.keys(TARGETS).join(', ')}: ${unknown}`);
    process.exit(2);
  }
  mkdirSync(join(root, 'prebuilds'), { recursive: true });
  for (const platform of platforms) {
    copyFileSync(join(buildFor(platform, 'terabag'), 'Release', 'terabag.node'), join(root, 'prebuilds', `${platform}.node`));
  }
}
