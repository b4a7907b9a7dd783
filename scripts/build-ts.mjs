// Compiles src into dist, then removes what an earlier build left of sources that are gone; files that stay are never away meanwhile.
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { root } from './prepare.mjs';

const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
const { status, stdout } = spawnSync(process.execPath, [tsc, '-p', 'tsconfig.build.json', '--listEmittedFiles'], {
  cwd: root,
  encoding: 'utf8',
  maxBuffer: 2 ** 26,
  stdio: ['ignore', 'pipe', 'inherit'],
});
const lines = stdout.split(/\r?\n/);
const emitted = new Set(lines.filter((line) => line.startsWith('TSFILE: ')).map((line) => resolve(root, line.slice('TSFILE: '.length))));
for (const line of lines) if (line !== '' && !line.startsWith('TSFILE: ')) console.error(line);
if (status !== 0) process.exit(status ?? 1);
const dist = join(root, 'dist');
// What browsers run is written as they take it.
const BROWSER = join('serve', 'page', 'browser');
for (const name of readdirSync(join(root, 'src', BROWSER))) {
  if (!/\.(?:js|css|html)$/.test(name)) continue;
  const to = join(dist, BROWSER, name);
  mkdirSync(dirname(to), { recursive: true });
  copyFileSync(join(root, 'src', BROWSER, name), to);
  emitted.add(to);
}
for (const entry of readdirSync(dist, { recursive: true, withFileTypes: true })) {
  const path = join(entry.parentPath, entry.name);
  if (entry.isFile() && !emitted.has(path)) rmSync(path);
}
