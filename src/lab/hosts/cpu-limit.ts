import { readFileSync, writeFileSync } from 'node:fs';
import { mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** Where the CPU controller of control groups is mounted, and the group in which new ones are made. */
export interface CpuController {
  readonly version: 1 | 2;
  readonly directory: string;
}

/** A limit is a share of so much time, short enough that a process over its share waits milliseconds and not the kernel's default, 100 ms. */
const PERIOD_US = 10_000;
/** The kernel takes no less for a share. */
const LEAST_QUOTA_US = 1_000;
/** An ended process leaves its group a little later. */
const REMOVE_MS = 2_000;
const REMOVE_PAUSE_MS = 10;
/** Names carry the pid of the process that made the group, so that groups of the dead can be told. */
const GROUP_NAME = /^terabag-(\d+)-\d+$/;
let numGroups = 0;

/** CPU limits of the processes that are put into the groups, one limit a group. Needs to write to the control groups: root, mostly. */
export class CpuLimits {
  private constructor(
    private readonly directories: readonly string[],
    readonly percent: number,
  ) {}

  /** Makes groups with a limit each, in percent of one core, after it removed those that launchers left behind which are dead. */
  static async open(groups: number, percent: number): Promise<CpuLimits> {
    const controller = await cpuController();
    await removeStaleGroups(controller.directory);
    if (controller.version === 2) await handDownCpu(controller.directory);
    const limits = new CpuLimits(
      Array.from({ length: groups }, () => join(controller.directory, `terabag-${process.pid}-${numGroups++}`)),
      percent,
    );
    try {
      for (const directory of limits.directories) await makeGroup(directory, controller.version, percent);
    } catch (error) {
      await limits.close();
      throw error;
    }
    return limits;
  }

  /** Puts a process with all its threads into a group. Of one that ended already nothing is left to limit. */
  adopt(group: number, pid: number): void {
    try {
      writeFileSync(join(this.directories[group] as string, 'cgroup.procs'), String(pid));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  }

  /** How often a group had to wait for its next share. */
  throttled(group: number): number {
    return Number(/^nr_throttled (\d+)$/m.exec(readFileSync(join(this.directories[group] as string, 'cpu.stat'), 'utf8'))?.[1] ?? 0);
  }

  /** Removes the groups; their processes have to have ended. */
  async close(): Promise<void> {
    await Promise.all(this.directories.map(removeGroup));
  }
}

async function cpuController(): Promise<CpuController> {
  if (process.platform !== 'linux') throw new Error('control groups are Linux only');
  const controller = findCpuController(await readFile('/proc/self/mountinfo', 'utf8'), await readFile('/proc/self/cgroup', 'utf8'));
  if (controller === null) throw new Error('no control groups with a CPU controller are mounted');
  return controller;
}

/** Finds the controller in the text of /proc/self/mountinfo and /proc/self/cgroup; null when there is none. */
export function findCpuController(mountInfo: string, ownGroups: string): CpuController | null {
  const mounts = mountInfo.split('\n').flatMap((line) => {
    const [, root, at, type, options] = /^\d+ \d+ \S+ (\S+) (\S+) .* - (\S+) \S+ (\S+)$/.exec(line) ?? [];
    return root === undefined || at === undefined ? [] : [{ root, at, type, options: options?.split(',') ?? [] }];
  });
  const groups = ownGroups.split('\n').flatMap((line) => {
    const [, controllers, path] = /^\d+:([^:]*):(\S+)$/.exec(line) ?? [];
    return controllers === undefined || path === undefined ? [] : [{ controllers: controllers.split(','), path }];
  });
  const below = (mount: { root: string; at: string }, path: string): string =>
    join(mount.at, path.startsWith(mount.root) ? path.slice(mount.root.length) : '.');
  const first = mounts.find(({ type, options }) => type === 'cgroup' && options.includes('cpu'));
  if (first !== undefined)
    return { version: 1, directory: below(first, groups.find(({ controllers }) => controllers.includes('cpu'))?.path ?? '/') };
  const second = mounts.find(({ type }) => type === 'cgroup2');
  if (second === undefined) return null;
  const own = below(second, groups.find(({ controllers }) => controllers[0] === '')?.path ?? '/');
  // In version 2 a group that holds processes has no groups with limits below it, apart from the root: ours are made beside.
  return { version: 2, directory: own === join(second.at) ? own : dirname(own) };
}

/** What is written, to which file of a group, for a limit in percent of one core. */
export function limitOf(version: 1 | 2, percent: number): readonly (readonly [file: string, text: string])[] {
  const period = Math.max(PERIOD_US, Math.ceil((LEAST_QUOTA_US * 100) / percent));
  const quota = Math.max(LEAST_QUOTA_US, Math.round((period * percent) / 100));
  if (version === 2) return [['cpu.max', `${quota} ${period}`]];
  return [
    ['cpu.cfs_period_us', String(period)],
    ['cpu.cfs_quota_us', String(quota)],
  ];
}

async function makeGroup(directory: string, version: 1 | 2, percent: number): Promise<void> {
  await mkdir(directory);
  for (const [file, text] of limitOf(version, percent)) await writeFile(join(directory, file), text);
}

/** Version 2: groups below get the CPU controller when their parent hands it down. */
async function handDownCpu(directory: string): Promise<void> {
  const offered = await readFile(join(directory, 'cgroup.controllers'), 'utf8');
  if (!offered.split(/\s/).includes('cpu')) throw new Error(`the control group has no CPU controller: ${directory}`);
  const handedDown = await readFile(join(directory, 'cgroup.subtree_control'), 'utf8');
  if (!handedDown.split(/\s/).includes('cpu')) await writeFile(join(directory, 'cgroup.subtree_control'), '+cpu');
}

async function removeStaleGroups(directory: string): Promise<void> {
  for (const name of await readdir(directory)) {
    const maker = Number(GROUP_NAME.exec(name)?.[1] ?? 0);
    if (maker === 0 || isAlive(maker)) continue;
    const group = join(directory, name);
    // Shards end by themselves when their launcher is dead; one that hangs would hold the group. A pid of another namespace reads as 0.
    const processes = await readFile(join(group, 'cgroup.procs'), 'utf8').catch(() => '');
    for (const pid of processes.split('\n').map(Number)) if (pid > 0) killIfThere(pid);
    // One that cannot be removed is the next launch's to remove.
    await removeGroup(group).catch(() => undefined);
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH';
  }
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

async function removeGroup(directory: string): Promise<void> {
  for (const until = performance.now() + REMOVE_MS; ; await sleep(REMOVE_PAUSE_MS)) {
    try {
      await rmdir(directory);
      return;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'ENOENT') return;
      if (code !== 'EBUSY' || performance.now() > until) throw error;
    }
  }
}
