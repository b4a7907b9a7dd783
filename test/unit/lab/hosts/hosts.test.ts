import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { TerabagError } from '../../../../src/errors.js';
import { findCpuController, limitOf } from '../../../../src/lab/hosts/cpu-limit.js';
import { freeNetwork } from '../../../../src/lab/hosts/host-network.js';
import { EmulatedHosts, type HostOptions } from '../../../../src/lab/hosts/hosts.js';

describe('the CPU controller is found', () => {
  const v1 = '32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct';
  const cpuset = '34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset';
  const v2 = '41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate';
  const disk = '23 1 254:0 / / rw,relatime - ext4 /dev/vda rw';
  test.each([
    ['version 1, in the root group', [disk, cpuset, v1, v2], ['3:cpuset:/a', '1:cpu,cpuacct:/', '0::/'], 1, '/sys/fs/cgroup/cpu,cpuacct'],
    ['version 1, in a group', [v1], ['1:cpu,cpuacct:/docker/abc'], 1, '/sys/fs/cgroup/cpu,cpuacct/docker/abc'],
    ['version 2, in the root group', [disk, v2], ['0::/'], 2, '/sys/fs/cgroup/unified'],
    ['version 2, beside the own group', [cpuset, v2], ['3:cpuset:/', '0::/user.slice/a.scope'], 2, '/sys/fs/cgroup/unified/user.slice'],
    [
      'a part of the tree, as containers have it',
      ['9 8 0:29 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu'],
      ['1:cpu:/docker/abc'],
      1,
      '/sys/fs/cgroup/cpu',
    ],
  ] as const)('%s', (_, mounts, groups, version, directory) => {
    expect(findCpuController(`${mounts.join('\n')}\n`, `${groups.join('\n')}\n`)).toEqual({ version, directory });
  });
  test('or not', () => expect(findCpuController(`${disk}\n${cpuset}\n`, '3:cpuset:/\n')).toBeNull());
});

test('a limit is the asked share of its period, within what the kernel takes', () => {
  fc.assert(
    fc.property(fc.double({ min: 1, max: 10_000, noNaN: true }), (percent) => {
      const [[, periodText], [, quotaText]] = limitOf(1, percent) as [[string, string], [string, string]];
      const [period, quota] = [Number(periodText), Number(quotaText)];
      expect(limitOf(2, percent)).toEqual([['cpu.max', `${quota} ${period}`]]);
      expect(quota).toBeGreaterThanOrEqual(1000);
      expect(period).toBeGreaterThanOrEqual(1000);
      expect(period).toBeLessThanOrEqual(1_000_000);
      expect(Math.abs((100 * quota) / period - percent)).toBeLessThanOrEqual(percent * 0.01);
    }),
  );
  expect(limitOf(2, 50)).toEqual([['cpu.max', '5000 10000']]);
});

test('a network is of the range for benchmarks, and holds no address of an interface nor is held by one', () => {
  const at = (prefix: string, netmask: string) => ({ family: 'IPv4' as const, address: `${prefix}.1`, netmask });
  expect(freeNetwork([], 0)).toBe('198.18.0');
  expect(freeNetwork([], 511)).toBe('198.19.255');
  expect(freeNetwork([], 512 + 3)).toBe('198.18.3');
  expect(freeNetwork([at('198.18.0', '255.255.255.0'), at('198.18.1', '255.255.255.255')], 0)).toBe('198.18.2');
  expect(freeNetwork([at('198.18.7', '255.255.0.0'), { family: 'IPv6', address: '::1', netmask: 'ff::' }], 0)).toBe('198.19.0');
  expect(() => freeNetwork([at('198.18.0', '255.254.0.0')], 9)).toThrow(/in use/);
});

test.each<[string, HostOptions]>([
  ['cpuPercent', { cpuPercent: 0 }],
  ['cpuPercent', { cpuPercent: Number.NaN }],
  ['network.delayMs', { network: { delayMs: -1 } }],
  ['network.jitterMs', { network: { delayMs: 1, jitterMs: 2 } }],
  ['network.lossPercent', { network: { delayMs: 1, lossPercent: 101 } }],
  ['network.seed', { network: { delayMs: 1, seed: 1.5 } }],
])('%s out of its range is refused before anything is made', async (field, hosts) => {
  await expect(EmulatedHosts.open(1, hosts)).rejects.toBeInstanceOf(TerabagError);
  await expect(EmulatedHosts.open(1, hosts)).rejects.toMatchObject({ code: 'invalid_argument', details: { field: `hosts.${field}` } });
});
