import { expect, test, vi } from 'vitest';
import { BufferPool } from '../../../../src/rpc/transport/buffer-pool.js';

const MIB = 2 ** 20;

test('buffers of a burst are let go when nobody needs them, and others are kept in their place', () => {
  vi.useFakeTimers();
  try {
    const pool = new BufferPool();
    const use = (count: number, bytes: number): ArrayBufferLike[] => {
      const lent = Array.from({ length: count }, () => pool.take(bytes));
      for (const each of lent) each.release();
      return lent.map((each) => each.bytes.buffer);
    };
    // As many as it keeps.
    const burst = new Set(use(128, MIB));
    expect(use(128, MIB).every((buffer) => burst.has(buffer))).toBe(true);
    // There is no room for more.
    expect(use(1, 2 * MIB)[0]).not.toBe(use(1, 2 * MIB)[0]);
    vi.advanceTimersByTime(10_000);
    use(2, MIB);
    vi.advanceTimersByTime(10_000);
    expect(use(128, MIB).filter((buffer) => burst.has(buffer))).toHaveLength(2);
    vi.advanceTimersByTime(30_000);
    expect(use(1, 2 * MIB)[0]).toBe(use(1, 2 * MIB)[0]);
  } finally {
    vi.useRealTimers();
  }
});
