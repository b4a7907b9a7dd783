import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { TerabagError } from '../errors.js';
import type { Residency } from './residency.js';

/** What this process may take. */
export interface MemoryLimits {
  /** Memory of the machine. */
  readonly totalBytes: number;
  /** Bytes that can be had without swapping: of the machine, or of the tightest control group. */
  readonly availableBytes: number;
  /** Bytes that may still be locked; Infinity for a process that may lock everything. */
  readonly lockableBytes: number;
}

const CAP_IPC_LOCK = 14n;

/** "key: value" or "key value" lines; units stay with the value. */
function fields(text: string): ReadonlyMap<string, string> {
  return new Map([...text.matchAll(/^(\S+?):?\s+(.*?)\s*$/gm)].map(([, key = '', value = '']) => [key, value]));
}

function kibibytes(value: string | undefined): number {
  const [, number] = /^(\d+) kB$/.exec(value ?? '') ?? [];
  return number === undefined ? Number.NaN : Number(number) * 1024;
}

/** MemAvailable of /proc/meminfo; NaN without it (Linux before 3.14). */
export function machineAvailable(meminfo: string): number {
  return kibibytes(fields(meminfo).get('MemAvailable'));
}

/** From /proc/self/limits and /proc/self/status. */
export function lockable(limits: string, status: string): number {
  const own = fields(status);
  if (((BigInt(`0x${own.get('CapEff') || '0'}`) >> CAP_IPC_LOCK) & 1n) === 1n) return Number.POSITIVE_INFINITY;
  const [, soft = 'unlimited'] = /^Max locked memory\s+(\S+)/m.exec(limits) ?? [];
  if (soft === 'unlimited') return Number.POSITIVE_INFINITY;
  return Math.max(0, Number(soft) - (kibibytes(own.get('VmLck')) || 0));
}

/**
 * What a control group has left: its limit less its use, plus pages of files, which it can drop. limit: memory.max, or memory.limit_in_bytes
 * of version 1; stat: memory.stat. Infinity without a limit.
 */
export function groupAvailable(limit: string, usage: string, stat: string): number {
  const most = limit.trim() === 'max' ? Number.POSITIVE_INFINITY : Number(limit);
  const counts = fields(stat);
  const count = (key: string): number => Number(counts.get(`total_${key}`) ?? counts.get(key) ?? 0);
  return Math.max(0, most - Number(usage) + count('inactive_file') + count('active_file'));
}

/**
 * Directories of the control groups that limit this process' memory, each group before its parents. selfCgroup: /proc/self/cgroup;
 * mountinfo: /proc/self/mountinfo.
 */
export function memoryGroups(selfCgroup: string, mountinfo: string): { readonly version: 1 | 2; readonly dir: string }[] {
  const mounts = mountinfo.split('\n').flatMap((line) => {
    const [before = '', after = ''] = line.split(' - ');
    const [, , , root = '', point = ''] = before.split(' ');
    const [type, , options = ''] = after.split(' ');
    const version = type === 'cgroup2' ? 2 : type === 'cgroup' && options.split(',').includes('memory') ? 1 : null;
    return version === null ? [] : [{ version: version as 1 | 2, root, point }];
  });
  return mounts.flatMap(({ version, root, point }) => {
    const line = selfCgroup.split('\n').find((entry) => {
      const [, controllers = ''] = entry.split(':');
      return version === 2 ? entry.startsWith('0::') : controllers.split(',').includes('memory');
    });
    if (line === undefined) return [];
    const path = line.split(':').slice(2).join(':');
    // A container sees its own group as the root of the mount.
    const below = root !== '/' && (path === root || path.startsWith(`${root}/`)) ? path.slice(root.length) : path;
    const parts = below.split('/').filter((part) => part !== '' && part !== '..');
    return Array.from({ length: parts.length + 1 }, (_, up) => ({ version, dir: join(point, ...parts.slice(0, parts.length - up)) }));
  });
}

const GROUP_FILES = {
  1: ['memory.limit_in_bytes', 'memory.usage_in_bytes', 'memory.stat'],
  2: ['memory.max', 'memory.current', 'memory.stat'],
} as const;

/** Null where the system does not tell: no Linux. */
export async function readMemoryLimits(): Promise<MemoryLimits | null> {
  const text = (path: string): Promise<string | null> => readFile(path, 'utf8').catch(() => null);
  const [meminfo, limits, status, selfCgroup, mountinfo] = await Promise.all(
    ['meminfo', 'self/limits', 'self/status', 'self/cgroup', 'self/mountinfo'].map((name) => text(`/proc/${name}`)),
  );
  if (meminfo == null || limits == null || status == null) return null;
  const machine = machineAvailable(meminfo);
  const groups = await Promise.all(
    memoryGroups(selfCgroup ?? '', mountinfo ?? '').map(async ({ version, dir }) => {
      const [limit, usage, stat] = await Promise.all(GROUP_FILES[version].map((name) => text(join(dir, name))));
      // The root group has no limit; a group of another namespace cannot be seen.
      return limit == null || usage == null || stat == null ? Number.POSITIVE_INFINITY : groupAvailable(limit, usage, stat);
    }),
  );
  return {
    totalBytes: kibibytes(fields(meminfo).get('MemTotal')),
    availableBytes: Math.min(Number.isNaN(machine) ? Number.POSITIVE_INFINITY : machine, ...groups),
    lockableBytes: lockable(limits, status),
  };
}

export interface MemoryNeed {
  readonly residency: Residency;
  /** Bytes that will be locked or copied. */
  readonly keptBytes: number;
  /** Those that are not in memory yet; what is there already can be locked without more. */
  readonly missingBytes: number;
}

/** Why tables cannot be kept in memory, or null when they can. */
export function refusal({ residency, keptBytes, missingBytes }: MemoryNeed, limits: MemoryLimits): TerabagError | null {
  const details = { residency, neededBytes: keptBytes };
  if (residency === 'lock' && keptBytes > limits.lockableBytes) {
    return new TerabagError(
      'does_not_fit',
      `tables do not fit in what may be locked; raise it (ulimit -l, systemd LimitMEMLOCK, docker --ulimit memlock), or use residency populate: needed ${keptBytes} bytes, may be locked ${limits.lockableBytes} bytes`,
      { ...details, lockableBytes: limits.lockableBytes },
    );
  }
  if ((residency === 'lock' || residency === 'hugepages') && missingBytes > 0 && keptBytes > limits.availableBytes) {
    return new TerabagError(
      'does_not_fit',
      `tables do not fit in memory with residency ${residency}; use smaller shards, packed rows, or residency map: needed ${keptBytes} bytes, available ${limits.availableBytes} bytes`,
      { ...details, availableBytes: limits.availableBytes },
    );
  }
  return null;
}
