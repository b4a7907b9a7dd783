import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
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
  const entries = readdirSync(unpacked).sort();
  expect(entries).toEqual(['CMakeLists.txt', 'LICENSE', 'README.md', 'binding.gyp', 'dist', 'native', 'package.json', 'scripts']);
  expect(readdirSync(join(unpacked, 'native')).filter((name) => name.startsWith('build'))).toEqual([]);
});

test('a tarball with a prebuilt addon installs, loads and runs without install scripts', () => {
  mkdirSync(join(unpacked, 'prebuilds'));
  copyFileSync(built, join(unpacked, 'prebuilds', `${process.platform}-${process.arch}.node`));
  const app = join(dir, 'app');
  mkdirSync(app);
  writeFileSync(join(app, 'package.json'), '{ "private": true, "type": "module" }');
  npm(app, 'install', '--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund', pack(unpacked, join(dir, 'prebuilt')));
  writeFileSync(
    join(app, 'app.mjs'),
    `import { openLocal } from 'terabag';
    const predictor = await openLocal(${JSON.stringify(join(root, 'test/fixtures/open-bandit'))});
    console.log(predictor.modelHash.length);
    await predictor.close();`,
  );
  expect(execFileSync(process.execPath, ['app.mjs'], { cwd: app, env, encoding: 'utf8' })).toBe('64\n');
  const inspected = execFileSync('npx', ['--no-install', 'terabag', 'inspect', join(root, 'test/fixtures/open-bandit'), '--json'], {
    cwd: app,
    env,
    encoding: 'utf8',
  });
  expect(JSON.parse(inspected)).toMatchObject({ output: expect.any(String) });

  // The same installation without its addon says what was tried and which command helps.
  rmSync(join(app, 'node_modules/terabag/prebuilds'), { recursive: true });
  const failed = spawnSync(process.execPath, ['app.mjs'], { cwd: app, env, encoding: 'utf8' });
  expect(failed.status).not.toBe(0);
  expect(failed.stderr).toMatch(/native addon of terabag cannot be loaded/);
  expect(failed.stderr).toMatch(/npm rebuild terabag/);
  expect(failed.stderr).toMatch(/prebuilds.*not there/);
});
