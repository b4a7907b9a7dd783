// Compiles src into dist, then removes what an earlier build left of sources that are gone; files that stay are never away meanwhile.
import { spawnSync } from 'node:child_process';
import { readdirSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
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
for (const entry of readdirSync(dist, { recursive: true, withFileTypes: true })) {
  const path = join(entry.parentPath, entry.name);
  if (entry.isFile() && !emitted.has(path)) rmSync(path);
}
