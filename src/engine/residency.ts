/**
 * How tables are held in memory:
 * - map: the files are mapped, and pages come when they are first touched;
 * - populate (default): the files are mapped and read ahead of use, onto huge pages where the filesystem can; the kernel may drop pages again
 *   when memory is short;
 * - lock: populated and locked, so that no page is dropped;
 * - hugepages: the rows are copied into anonymous memory on huge pages, which any filesystem allows, at the price of memory that processes do
 *   not share. Of a row-wise part only its own rows are copied.
 */
export const RESIDENCIES = ['map', 'populate', 'lock', 'hugepages'] as const;
/** @useDeclaredType */
export type Residency = (typeof RESIDENCIES)[number];

/** A file as the addon measures it. */
export interface MeasuredFile {
  readonly path: string;
  /** Bytes of the tables' rows in this file. */
  readonly bytes: number;
  /** Those in memory; null when the kernel does not tell: the process may neither write the file nor owns it. */
  readonly residentBytes: number | null;
  /** The file's entries of /proc/self/smaps, as the kernel wrote them; empty where there is no such file. */
  readonly smaps: string;
}

export interface ResidencyFigures {
  /** Bytes of the tables' rows. */
  readonly bytes: number;
  /** Those in memory: reading them needs no disk. With map, also what other programs left in the page cache. */
  readonly residentBytes: number;
  /** Those that are mapped here by 2 MiB pages. */
  readonly hugePageBytes: number;
  /** Those that are locked. */
  readonly lockedBytes: number;
}

export interface FileResidency extends ResidencyFigures {
  readonly path: string;
  /** Whether residentBytes is known; if not, it counts what this process has mapped: the kernel tells only who owns or may write a file. */
  readonly known: boolean;
}

export interface ResidencyReport extends ResidencyFigures {
  /** In the order of their paths. */
  readonly files: readonly FileResidency[];
}

export interface SmapsFigures {
  /** Mapped by this process. */
  readonly rssBytes: number;
  /** Those on 2 MiB pages, anonymous or of a file. */
  readonly hugePageBytes: number;
  /** Those in mappings that are locked. The kernel's own line Locked is divided by the number of processes that map a page. */
  readonly lockedBytes: number;
}

const HUGE_KEYS: ReadonlySet<string> = new Set(['AnonHugePages', 'FilePmdMapped', 'ShmemPmdMapped']);

/** Adds up entries of /proc/PID/smaps; keys that a kernel does not have count as 0. */
export function sumSmaps(text: string): SmapsFigures {
  let [rssBytes, hugePageBytes, lockedBytes, entryRss] = [0, 0, 0, 0];
  for (const line of text.split('\n')) {
    const [, key = '', value = ''] = /^(\w+):\s*(.*?)\s*$/.exec(line) ?? [];
    const bytes = Number(/^(\d+) kB$/.exec(value)?.[1] ?? 0) * 1024;
    if (key === 'Rss') {
      entryRss = bytes;
      rssBytes += bytes;
    } else if (HUGE_KEYS.has(key)) {
      hugePageBytes += bytes;
    } else if (key === 'VmFlags' && value.split(' ').includes('lo')) {
      // The last line of an entry.
      lockedBytes += entryRss;
    }
  }
  return { rssBytes, hugePageBytes, lockedBytes };
}

/** Null when the system does not tell: without /proc/self/smaps. */
export function reportResidency(files: readonly MeasuredFile[]): ResidencyReport | null {
  if (files.some(({ smaps }) => smaps === '')) return null;
  const figures = files.map(({ path, bytes, residentBytes, smaps }): FileResidency => {
    const { rssBytes, hugePageBytes, lockedBytes } = sumSmaps(smaps);
    // A mapping has more than the rows: the file's header, tables of other shards.
    const ofRows = (mapped: number): number => Math.min(mapped, bytes);
    return {
      path,
      bytes,
      residentBytes: residentBytes ?? ofRows(rssBytes),
      hugePageBytes: ofRows(hugePageBytes),
      lockedBytes: ofRows(lockedBytes),
      known: residentBytes !== null,
    };
  });
  const total = (key: keyof ResidencyFigures): number => figures.reduce((sum, file) => sum + file[key], 0);
  return {
    bytes: total('bytes'),
    residentBytes: total('residentBytes'),
    hugePageBytes: total('hugePageBytes'),
    lockedBytes: total('lockedBytes'),
    files: figures,
  };
}

/** Smaller files have little to gain, and lie to a good part in the file's last, incomplete 2 MiB. */
const SMALL_BYTES = 4 * 2 ** 20;
const HUGE_PAGE = 2 * 2 ** 20;
const ENOUGH = 0.95;

/** Whether all that can lie on huge pages does, up to a few percent; true of small files. */
export function liesOnHugePages({ bytes, hugePageBytes }: ResidencyFigures): boolean {
  return bytes <= SMALL_BYTES || hugePageBytes >= ENOUGH * Math.floor(bytes / HUGE_PAGE) * HUGE_PAGE;
}

/** By statfs' type: the first Linux version of which the page cache has 2 MiB pages for files of this filesystem. */
const LARGE_FOLIOS_SINCE: ReadonlyMap<number, readonly [major: number, minor: number]> = new Map([
  [0xef53, [6, 16]], // ext4
  [0x58465342, [5, 18]], // XFS
]);

/** Whether files of a filesystem can lie on huge pages; false where that is not known. release: as of os.release(). */
export function holdsHugePages(filesystemType: number, release: string): boolean {
  const [major = 0, minor = 0] = release.split('.').map((part) => Number.parseInt(part, 10));
  const since = LARGE_FOLIOS_SINCE.get(filesystemType);
  return since !== undefined && (major > since[0] || (major === since[0] && minor >= since[1]));
}
