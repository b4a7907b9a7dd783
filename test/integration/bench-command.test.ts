import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';

const program = fileURLToPath(new URL('../../bench/run.ts', import.meta.url));
let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'terabag-bench-'));
});
afterAll(() => rmSync(dir, { recursive: true }));

test.each([
  [['--case', '('], /^error: option '--case <pattern>' argument '\(' is invalid\. Invalid regular expression.*\n$/],
  [['--core', 'first'], /^error: option '--core <n>' argument 'first' is invalid\. It has to be the number of a core.*\n$/],
  [['--core', '-1'], /^error: option '--core <n>' argument '-1' is invalid/],
  [['--json', 'not-there/fc.jsonl'], /^error: --json: file cannot be written \(ENOENT\): not-there\/fc\.jsonl\n$/],
  [['--json', '.'], /^error: --json: file cannot be written \(EISDIR\): \.\n$/],
  [['--case', 'fc-of-nobody'], /^error: no case of fc matches --case: fc-of-nobody\n$/],
])('what the bench cannot do is refused in one line: %s', (options, line) => {
  const command = ['--import', import.meta.resolve('tsx'), program, 'fc', '--quick', '--rounds', '1', ...options];
  const bench = spawnSync(process.execPath, command, { cwd: dir, encoding: 'utf8' });
  expect(bench).toMatchObject({ status: 1, stderr: expect.stringMatching(line) });
  expect(readdirSync(dir, { recursive: true }).filter((name) => name !== 'bench-output')).toEqual([]);
});
