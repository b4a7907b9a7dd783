import { describe, expect, it } from 'vitest';
import { groupAvailable, lockable, machineAvailable, memoryGroups, refusal } from '../../../src/engine/memory-limits.js';
import { holdsHugePages, liesOnHugePages, reportResidency, sumSmaps } from '../../../src/engine/residency.js';

const MiB = 2 ** 20;
const entry = (lines: Record<string, string>): string =>
  ['7f0000000000-7f0000800000 r--s 00000000 08:01 42 /model/a.safetensors', ...Object.entries(lines).map(([k, v]) => `${k}: ${v}`)].join(
    '\n',
  );

describe('smaps', () => {
  it('adds up entries, and counts pages of locked mappings', () => {
    const text = [
      entry({ Size: '8192 kB', Rss: '4096 kB', FilePmdMapped: '2048 kB', VmFlags: 'rd sh mr lo' }),
      entry({ Rss: '1024 kB', AnonHugePages: '512 kB', VmFlags: 'rd wr' }),
    ].join('\n');
    expect(sumSmaps(text)).toEqual({ rssBytes: 5 * MiB, hugePageBytes: 2.5 * MiB, lockedBytes: 4 * MiB });
    expect(sumSmaps('')).toEqual({ rssBytes: 0, hugePageBytes: 0, lockedBytes: 0 });
  });

  it('reports no more than the rows, and what it does not know as what is mapped', () => {
    const smaps = entry({ Rss: '8192 kB', FilePmdMapped: '8192 kB' });
    const report = reportResidency([
      { path: 'a', bytes: 5 * MiB, residentBytes: 3 * MiB, smaps },
      { path: 'b', bytes: 10 * MiB, residentBytes: null, smaps },
    ]);
    expect(report).toMatchObject({ bytes: 15 * MiB, residentBytes: 11 * MiB, hugePageBytes: 13 * MiB, lockedBytes: 0 });
    expect(report?.files.map(({ known }) => known)).toEqual([true, false]);
    expect(reportResidency([{ path: 'a', bytes: 1, residentBytes: 1, smaps: '' }])).toBeNull();
  });

  it('holds small files, and 95 % of what can lie on huge pages, for good', () => {
    const of = (bytes: number, hugePageBytes: number) => liesOnHugePages({ bytes, hugePageBytes, residentBytes: bytes, lockedBytes: 0 });
    expect([of(3 * MiB, 0), of(100 * MiB, 96 * MiB), of(101 * MiB, 96 * MiB), of(100 * MiB, 90 * MiB)]).toEqual([true, true, true, false]);
  });

  it('knows filesystems that hold files on huge pages', () => {
    expect(holdsHugePages(0xef53, '6.18.44-x')).toBe(true);
    expect(holdsHugePages(0xef53, '6.15.0')).toBe(false);
    expect(holdsHugePages(0x58465342, '5.18')).toBe(true);
    expect(holdsHugePages(0x01021994, '6.18.0')).toBe(false);
  });
});

describe('memory limits', () => {
  it('are read from what the kernel writes', () => {
    expect(machineAvailable('MemTotal:  100 kB\nMemAvailable:   2048 kB\n')).toBe(2 * MiB);
    expect(machineAvailable('MemTotal: 100 kB')).toBeNaN();
    const limits = (soft: string): string =>
      `Limit  Soft Limit  Hard Limit  Units\nMax locked memory         ${soft}      unlimited bytes\n`;
    expect(lockable(limits('8388608'), 'VmLck:\t 1024 kB\nCapEff:\t0000000000000000\n')).toBe(7 * MiB);
    expect(lockable(limits('8388608'), 'CapEff:\t000001ffffffffff\n')).toBe(Number.POSITIVE_INFINITY);
    expect(lockable(limits('unlimited'), 'CapEff:\t0\n')).toBe(Number.POSITIVE_INFINITY);
  });

  it('count what a control group can drop', () => {
    expect(groupAvailable('1000\n', '900\n', 'anon 100\ninactive_file 300\nactive_file 200\n')).toBe(600);
    expect(groupAvailable('max', '900', '')).toBe(Number.POSITIVE_INFINITY);
    expect(groupAvailable('1000', '1500', 'total_inactive_file 100\ninactive_file 1')).toBe(0);
  });

  it('find the groups of both versions, from the inside out', () => {
    const v2 = memoryGroups('0::/a/b\n', '30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n');
    expect(v2).toEqual(['/sys/fs/cgroup/a/b', '/sys/fs/cgroup/a', '/sys/fs/cgroup'].map((dir) => ({ version: 2, dir })));
    const v1 = memoryGroups('5:cpu:/x\n4:memory:/docker/1\n', '31 25 0:27 /docker/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n');
    expect(v1).toEqual([{ version: 1, dir: '/sys/fs/cgroup/memory' }]);
  });

  it('refuse with the sizes', () => {
    const limits = { totalBytes: 100 * MiB, availableBytes: 10 * MiB, lockableBytes: 4 * MiB };
    const need = { keptBytes: 8 * MiB, missingBytes: 8 * MiB };
    expect(refusal({ ...need, residency: 'hugepages' }, limits)).toBeNull();
    expect(refusal({ ...need, residency: 'lock' }, limits)).toMatchObject({
      code: 'does_not_fit',
      message: expect.stringMatching(/ulimit -l.*needed 8388608 bytes, may be locked 4194304 bytes$/),
    });
    const large = { keptBytes: 11 * MiB, missingBytes: 1 };
    expect(refusal({ ...large, residency: 'hugepages' }, limits)).toMatchObject({
      code: 'does_not_fit',
      message: expect.stringMatching(/needed 11534336 bytes, available 10485760 bytes$/),
    });
    const unlimited = { ...limits, lockableBytes: Number.POSITIVE_INFINITY };
    expect(refusal({ ...large, residency: 'lock' }, unlimited)?.code).toBe('does_not_fit');
    // What is in memory already can be locked where it is.
    expect(refusal({ ...large, missingBytes: 0, residency: 'lock' }, unlimited)).toBeNull();
  });
});
