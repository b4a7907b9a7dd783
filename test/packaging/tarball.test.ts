import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const built = process.env['TERABAG_ADDON'] ?? join(root, 'native/build/Release/terabag.node');
const { TERABAG_ADDON: _, ...env } = process.env;
let dir: string;
let unpacked: string;

function npm(cwd: string, ...args: string[]): string {
  return execFileSync('npm', args, { cwd, env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
}

function pack(from: string, to: string): string {
  mkdirSync(to, { recursive: true });
  npm(from, 'pack', '--ignore-scripts', '--pack-destination', to);
  return join(to, readdirSync(to).find((name) => name.endsWith('.tgz')) as string);
}

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'terabag-pack-'));
  execFileSync('tar', ['-xzf', pack(root, join(dir, 'source')), '-C', dir]);
  unpacked = join(dir, 'package');
});
afterAll(() => rmSync(dir, { recursive: true }));

test('the tarball holds what is needed to run and to build, and nothing of the checkout besides', () => {
  // Prebuilt addons are there when they were built before.
  const entries = readdirSync(unpacked)
    .filter((name) => name !== 'prebuilds')
    .sort();
  expect(entries).toEqual(['CMakeLists.txt', 'LICENSE', 'README.md', 'dist', 'native', 'package.json', 'scripts']);
  expect(readdirSync(join(unpacked, 'native')).sort()).toEqual(['addon', 'engine', 'kernels', 'lab', 'tables', 'wire']);
  const { scripts } = JSON.parse(readFileSync(join(unpacked, 'package.json'), 'utf8'));
  for (const name of ['preinstall', 'install', 'postinstall']) expect(scripts).not.toHaveProperty(name);
});

test('a tarball with a prebuilt addon installs without a compiler, loads, and scores the same over shards', { timeout: 240_000 }, () => {
  mkdirSync(join(unpacked, 'prebuilds'), { recursive: true });
  copyFileSync(built, join(unpacked, 'prebuilds', `${process.platform}-${process.arch}.node`));
  const app = join(dir, 'app');
  mkdirSync(app);
  writeFileSync(join(app, 'package.json'), '{ "private": true, "type": "module" }');
  // The only programs are Node.js, npm and a shell: nothing that builds.
  const bin = join(dir, 'bin');
  mkdirSync(bin);
  for (const program of ['node', 'npm', 'npx', 'sh', 'env']) {
    symlinkSync(execFileSync('sh', ['-c', `command -v ${program}`], { encoding: 'utf8' }).trim(), join(bin, program));
  }
  const poor = { ...env, PATH: bin };
  for (const compiler of ['cc', 'c++', 'gcc', 'g++', 'clang', 'make', 'cmake']) {
    expect(spawnSync('sh', ['-c', `command -v ${compiler}`], { env: poor }).status, compiler).not.toBe(0);
  }
  const inApp = (command: string, ...args: string[]) => execFileSync(command, args, { cwd: app, env: poor, encoding: 'utf8' });
  inApp('npm', 'install', '--prefer-offline', '--no-audit', '--no-fund', pack(unpacked, join(dir, 'prebuilt')));
  expect(existsSync(join(app, 'node_modules/terabag/native/build'))).toBe(false);

  copyFileSync(new URL('app.mjs', import.meta.url), join(app, 'app.mjs'));
  const bundle = join(root, 'test/fixtures/open-bandit');
  expect(JSON.parse(inApp('node', 'app.mjs', bundle))).toEqual({
    shards: 2,
    scores: [expect.any(Number), expect.any(Number), expect.any(Number)],
    same: true,
  });
  const inspected = inApp('npx', '--no-install', 'terabag', 'inspect', bundle, '--json');
  expect(JSON.parse(inspected)).toMatchObject({ output: expect.any(String) });

  // The same installation without its addon says what was tried and which command helps.
  rmSync(join(app, 'node_modules/terabag/prebuilds'), { recursive: true });
  const failed = spawnSync(process.execPath, ['app.mjs', bundle], { cwd: app, env, encoding: 'utf8' });
  expect(failed.status).not.toBe(0);
  expect(failed.stderr).toMatch(/addon terabag cannot be loaded/);
  expect(failed.stderr).toMatch(/node_modules\/terabag\/scripts\/build-addon\.mjs/);
  expect(failed.stderr).toMatch(/prebuilds.*not there/);
});
