import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it, vi } from 'vitest';
import { prefetchSetting } from '../../../src/engine/prefetch.js';
import { SparseEngine } from '../../../src/engine/sparse-engine.js';

afterEach(() => vi.unstubAllEnvs());

it('reads TERABAG_PREFETCH', () => {
  expect([undefined, '', 'auto'].map(prefetchSetting)).toEqual(['auto', 'auto', 'auto']);
  expect(prefetchSetting('default')).toBe('default');
  expect(prefetchSetting('96')).toEqual({ lines: 96, toL2: true });
  expect(prefetchSetting('0:l1')).toEqual({ lines: 0, toL2: false });
  for (const wrong of ['fast', '-1', '65537', '12:l3', '1.5']) {
    expect(() => prefetchSetting(wrong)).toThrow(
      expect.objectContaining({ code: 'invalid_argument', message: expect.stringContaining(wrong) }),
    );
  }
});

it('measures a distance for tables of 64 MiB, and gives the same bits with every distance', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'terabag-prefetch-'));
  const path = join(dir, 'rows.bin');
  const [dim, rows] = [32, 2 ** 19];
  writeFileSync(path, new Uint8Array(Float32Array.from({ length: 1000 * dim }, (_, i) => Math.sin(i)).buffer));
  truncateSync(path, rows * dim * 4);
  const table = { name: 't', table: 0, part: 0, parts: 1, path, byteOffset: 0, dim, format: 'fp32' as const, firstRow: 0, rowStep: 1 };
  const small = { ...table, name: 'small', table: 1, rows: 1000, dim: 16 };
  const bytes = (array: ArrayBufferView): Uint8Array => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  const batch = {
    segments: bytes(Uint32Array.of(0, 0, 1, 20, 0)),
    indexBytes: 4 as const,
    indices: bytes(Int32Array.from({ length: 400 }, (_, i) => (i * 37) % 1000)),
    offsets: bytes(Uint32Array.from({ length: 21 }, (_, bag) => bag * 20)),
    weights: null,
  };
  const pooled: Float32Array[] = [];
  for (const setting of ['auto', 'default', '0', '1:l1', '65536']) {
    vi.stubEnv('TERABAG_PREFETCH', setting);
    const engine = await SparseEngine.open([{ ...table, rows }, small]);
    expect(engine.tunedPrefetch.map(({ rowBytes }) => rowBytes)).toEqual(setting === 'auto' ? [dim * 4] : []);
    for (const { lines, nsPerLookup } of engine.tunedPrefetch) expect(Math.min(lines, nsPerLookup)).toBeGreaterThan(0);
    const out = new Float32Array(20 * dim);
    await engine.pool(batch, out);
    pooled.push(out);
    engine.close();
  }
  for (const out of pooled) expect(out).toEqual(pooled[0]);
  rmSync(dir, { recursive: true });
});
