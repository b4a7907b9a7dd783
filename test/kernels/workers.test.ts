import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

describe('worker threads', () => {
  it('load, pool and are terminated with jobs in flight, without a crash', () => {
    const child = spawnSync(process.execPath, [fileURLToPath(new URL('terminate-workers.mjs', import.meta.url))], { timeout: 100_000 });
    expect(child.stderr.toString()).toBe('');
    expect({ status: child.status, signal: child.signal, out: child.stdout.toString() }).toEqual({
      status: 0,
      signal: null,
      out: 'done\n',
    });
  });
});
