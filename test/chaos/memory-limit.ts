import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ShardHosts } from '../../src/index.js';
import type { Stage } from './case.js';
import { within } from './processes.js';

let numGroups = 0;
const MIB = 1 << 20;

/** The group that memory is limited in: of version 1 a mount of its own, of version 2 the one tree. */
function memoryGroup(name: string): { readonly directory: string; readonly version: 1 | 2 } {
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
  const mounted = (type: RegExp): string | undefined => mounts.find((line) => type.test(line))?.split(' ')[4];
  const first = mounted(/ - cgroup \S+ \S*\bmemory\b/);
  if (first !== undefined) return { directory: join(first, name), version: 1 };
  const second = mounted(/ - cgroup2 /);
  if (second === undefined) throw new Error('no control groups with a memory controller are mounted');
  return { directory: join(second, name), version: 2 };
}

/** Bounds the memory of a process, pages of files that it maps included: the kernel takes what is clean away from it. */
export class MemoryLimit {
  readonly #directory: string;
  readonly #version: 1 | 2;

  /** Removed at the end of the case. Throws where control groups cannot be written. */
  constructor(stage: Stage) {
    const { directory, version } = memoryGroup(`terabag-chaos-${process.pid}-${numGroups++}`);
    this.#directory = directory;
    this.#version = version;
    mkdirSync(directory);
    stage.defer(() =>
      within(2000, () => {
        try {
          rmdirSync(directory);
          return true;
        } catch {
          // The processes in it have not ended yet.
          return false;
        }
      }),
    );
  }

  /** Of the processes that are started by a launch on them, the one of this number is limited. */
  hosts(limited: number): ShardHosts {
    return {
      addressed: false,
      host: (number) => ({ address: '127.0.0.1', command: [], adopt: (pid) => void (number === limited && this.adopt(pid)) }),
      close: async () => undefined,
    };
  }

  adopt(pid: number): void {
    writeFileSync(join(this.#directory, 'cgroup.procs'), String(pid));
  }

  /** Takes so many bytes of what its processes have: less, as far as the kernel gets it. They have no more until the limit is lifted. */
  take(bytes: number): void {
    const used = Number(readFileSync(join(this.#directory, this.#version === 1 ? 'memory.usage_in_bytes' : 'memory.current'), 'utf8'));
    for (let asked = used - bytes; asked < used; asked += MIB) {
      try {
        this.#set(String(asked));
        return;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EBUSY') throw error;
      }
    }
  }

  lift(): void {
    this.#set(this.#version === 1 ? '-1' : 'max');
  }

  #set(limit: string): void {
    writeFileSync(join(this.#directory, this.#version === 1 ? 'memory.limit_in_bytes' : 'memory.max'), limit);
  }
}

/** Bytes of a file that a process has in memory by its mappings. */
export function mappedBytes(pid: number, file: string): number {
  let bytes = 0;
  let inFile = false;
  for (const line of readFileSync(`/proc/${pid}/smaps`, 'utf8').split('\n')) {
    if (/^[0-9a-f]+-[0-9a-f]+ /.test(line)) inFile = line.endsWith(file);
    else if (inFile && line.startsWith('Rss:')) bytes += Number(/\d+/.exec(line)?.[0] ?? 0) * 1024;
  }
  return bytes;
}
