import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { type EngineTable, SparseEngine } from '../../../src/engine/sparse-engine.js';

const dir = mkdtempSync(join(tmpdir(), 'terabag-'));
afterAll(() => rmSync(dir, { recursive: true }));

const tableAt = (path: string): EngineTable => ({
  ...{ name: 'ids', table: 0, part: 0, parts: 1, path, byteOffset: 0, rows: 2, dim: 2, firstRow: 0, rowStep: 1 },
  format: 'fp32',
});
const file = join(dir, 'table');
writeFileSync(file, new Uint8Array(16));

test.each(['map', 'hugepages'] as const)('with residency %s, a file that is not there is a bad table, with the reason', (residency) => {
  const path = join(dir, 'absent');
  expect(() => new SparseEngine([tableAt(path)], residency)).toThrow(
    expect.objectContaining({ code: 'bad_table', details: { reason: 'ENOENT' }, message: expect.stringContaining('absent') }),
  );
});

test('a name that is too long says so, and an empty file has no reason of the system', () => {
  expect(() => new SparseEngine([tableAt(join(dir, 'x'.repeat(300)))])).toThrow(
    expect.objectContaining({ code: 'bad_table', details: { reason: 'ENAMETOOLONG' } }),
  );
  const empty = join(dir, 'empty');
  writeFileSync(empty, '');
  expect(() => new SparseEngine([tableAt(empty)])).toThrow(
    expect.objectContaining({ code: 'bad_table', details: {}, message: expect.stringMatching(/^table file is empty: /) }),
  );
});

const limitOf = (): string => /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1] ?? '';
const prlimit = (soft: string): void => {
  execFileSync('prlimit', ['--pid', String(process.pid), `--nofile=${soft}:`]);
};

test.runIf(process.platform === 'linux').each(['map', 'hugepages'] as const)(
  'with residency %s, tables for which there is no file descriptor are refused as overload, and open when there is',
  (residency) => {
    const before = limitOf();
    prlimit('64');
    const taken: number[] = [];
    try {
      for (;;) taken.push(openSync('/dev/null', 'r'));
    } catch (error) {
      expect(error).toMatchObject({ code: 'EMFILE' });
    }
    try {
      expect(() => new SparseEngine([tableAt(file)], residency)).toThrow(
        expect.objectContaining({ code: 'overloaded', details: { reason: 'EMFILE' }, message: expect.stringMatching(/ulimit -n.*EMFILE/) }),
      );
    } finally {
      for (const descriptor of taken) closeSync(descriptor);
      prlimit(before);
    }
    const engine = new SparseEngine([tableAt(file)], residency);
    expect(engine.tableBytes).toBe(16);
    engine.close();
  },
);
