import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
let project: string;

/** A project of its own, beside which only the package and the types of Node.js are installed. */
beforeAll(() => {
  project = mkdtempSync(join(tmpdir(), 'terabag-consumer-'));
  cpSync(new URL('consumer', import.meta.url), project, { recursive: true });
  writeFileSync(join(project, 'package.json'), '{ "private": true, "type": "module" }');
  mkdirSync(join(project, 'node_modules/@types'), { recursive: true });
  symlinkSync(root, join(project, 'node_modules/terabag'));
  symlinkSync(join(root, 'node_modules/@types/node'), join(project, 'node_modules/@types/node'));
});
afterAll(() => rmSync(project, { recursive: true }));

test('a strict TypeScript project plans, predicts, publishes, launches and asks a model with what the package exports', () => {
  const node = (...args: string[]): string => execFileSync(process.execPath, args, { cwd: project, encoding: 'utf8' });
  node(join(root, 'node_modules/typescript/bin/tsc'), '-p', '.');
  const ran = node('built/planning.js', join(root, 'test/fixtures/open-bandit'), 'published');
  expect(JSON.parse(ran)).toEqual({
    // Main may hold nothing: the auto plan of so small a model is one shard, and all tables on main do not fit.
    ...{ items: 1, scores: 1, shards: 1, directories: 2, refusals: ['singular: does_not_fit'] },
    ...{ isBest: true, ready: 1, refused: 'bad_model', reads: 'function' },
  });
});
