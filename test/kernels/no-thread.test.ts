import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';

const dir = mkdtempSync(join(tmpdir(), 'terabag-'));
afterAll(() => rmSync(dir, { recursive: true }));
const linux = process.platform === 'linux' && spawnSync('prlimit', ['--version']).status === 0;

test.runIf(linux)('a job for which there is no thread is refused, the next one runs, and the process ends by itself', () => {
  const path = join(dir, 'table');
  writeFileSync(path, new Uint8Array(Float32Array.of(1, 2, 3, 4).buffer));
  const script = fileURLToPath(new URL('no-thread.mjs', import.meta.url));
  const { status, signal, stdout, stderr } = spawnSync('sh', ['-c', 'ulimit -s 8192; exec "$0" "$@"', process.execPath, script, path], {
    encoding: 'utf8',
    timeout: 60_000,
  });
  expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' });
  expect(JSON.parse(stdout)).toEqual({
    refused: { status: 'out_of_memory', message: expect.stringContaining('no thread') },
    pooled: [4, 6],
  });
});
