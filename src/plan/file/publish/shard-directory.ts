import { appendFile, mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { TerabagError } from '../../../errors.js';
import { finishBundle, readModelSpec } from '../../../model/bundle.js';
import { type FileSpec, fileSchema, type ModelSpec, type PublishedSpec, publishedSchema } from '../../../model/spec.js';
import { finalName, writeFileAtomic } from '../../../tables/atomic.js';
import { fileError } from '../../../tables/file-error.js';
import { partsDifference } from '../published.js';
import { LOCK_FILE } from './directory-lock.js';

/** While a bundle is not whole: what it will be on the first line, then a line per file that is. model.json takes its place. */
export const JOURNAL_FILE = 'publishing.jsonl';
const MANIFEST_FILE = 'model.json';

const headSchema = publishedSchema.omit({ files: true });
/** What a directory is published as. */
export type PublishedHead = Omit<PublishedSpec, 'files'>;

const used = (dir: string, what: string, details: Record<string, string> = {}): TerabagError =>
  new TerabagError('invalid_argument', `output holds something else: ${what}: ${dir}; publish to another directory, or remove it`, {
    path: dir,
    ...details,
  });

/** A shard's directory: empty, begun or whole. */
export class ShardDirectory {
  private constructor(
    readonly dir: string,
    private readonly head: PublishedHead,
    /** The files that an earlier run ended, as it noted them; they may have been damaged since. */
    readonly known: ReadonlyMap<string, FileSpec>,
    private readonly begun: boolean,
  ) {}

  /** Reads what is there, and changes nothing. A directory with anything but this bundle, or a beginning of it, is refused. */
  static async read(dir: string, head: PublishedHead): Promise<ShardDirectory> {
    const entries = await readdir(dir).catch((error: NodeJS.ErrnoException): string[] => {
      if (error.code === 'ENOENT') return [];
      throw fileError(error, 'output has to be a directory that can be read; publish to another', dir, 'invalid_argument');
    });
    const found = entries.includes(MANIFEST_FILE)
      ? await readManifest(dir)
      : entries.includes(JOURNAL_FILE)
        ? await readJournal(join(dir, JOURNAL_FILE))
        : null;
    // Another publish ended in between: its bundle is whole now.
    if (found === 'gone') return ShardDirectory.read(dir, head);
    if (found !== null) {
      refuseOther(dir, head, found.head);
      return new ShardDirectory(dir, head, found.files, true);
    }
    const strange = entries.filter((entry) => entry !== LOCK_FILE && finalName(entry) !== JOURNAL_FILE);
    if (strange.length > 0) throw used(dir, `${strange.length} files that were not published, first ${strange[0]}`);
    return new ShardDirectory(dir, head, new Map(), false);
  }

  /** Makes the directories of the files, and removes what a killed run left half-written. */
  async begin(files: readonly string[]): Promise<void> {
    await mkdir(this.dir, { recursive: true });
    if (!this.begun) await writeFileAtomic(join(this.dir, JOURNAL_FILE), `${JSON.stringify(this.head)}\n`);
    const written = new Set([...files, MANIFEST_FILE, JOURNAL_FILE].map((file) => join(this.dir, file)));
    for (const parent of new Set([...written].map(dirname))) {
      await mkdir(parent, { recursive: true });
      for (const entry of await readdir(parent)) {
        const final = finalName(basename(entry));
        if (final !== null && written.has(join(parent, final))) await rm(join(parent, entry), { force: true });
      }
    }
  }

  /** Notes that a file is whole. A note that is lost costs writing the file again. */
  async note(file: string, { bytes, crc32 }: FileSpec): Promise<void> {
    // The line before may be torn: a new one starts afresh.
    await appendFile(join(this.dir, JOURNAL_FILE), `\n${JSON.stringify({ file, bytes, crc32 })}\n`);
  }

  /** Makes a bundle of it, when what was written opens. */
  async finish(source: ModelSpec, files: Readonly<Record<string, FileSpec>>): Promise<void> {
    await finishBundle(this.dir, { ...source, published: { ...this.head, files } });
    await rm(join(this.dir, JOURNAL_FILE), { force: true });
  }
}

interface Found {
  readonly head: PublishedHead;
  readonly files: ReadonlyMap<string, FileSpec>;
}

async function readManifest(dir: string): Promise<Found> {
  const { published } = await readModelSpec(dir);
  if (published === undefined) throw used(dir, 'a bundle that was not published');
  return { head: published, files: new Map(Object.entries(published.files)) };
}

async function readJournal(path: string): Promise<Found | 'gone'> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null;
    throw fileError(error, 'what an earlier publish noted cannot be read', path, 'invalid_argument');
  });
  if (text === null) return 'gone';
  const [first = '', ...lines] = text.split('\n');
  const head = headSchema.safeParse(parse(first));
  if (!head.success) throw used(dirname(path), `${JOURNAL_FILE} cannot be understood`);
  const noted = fileSchema.extend({ file: publishedSchema.shape.parts.element.shape.file });
  const files = new Map<string, FileSpec>();
  for (const line of lines) {
    const entry = noted.safeParse(parse(line));
    // The last line of a killed run may be torn.
    if (entry.success) files.set(entry.data.file, { bytes: entry.data.bytes, crc32: entry.data.crc32 });
  }
  return { head: head.data, files };
}

function parse(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return null;
  }
}

function refuseOther(dir: string, wanted: PublishedHead, found: PublishedHead): void {
  if (found.source !== wanted.source)
    throw used(dir, `it is of another model, ${found.source.slice(0, 12)}, this is ${wanted.source.slice(0, 12)}`, {
      source: found.source,
    });
  if (found.shard !== wanted.shard) throw used(dir, `it is of shard ${found.shard}, this is ${wanted.shard}`, { shard: found.shard });
  const byTable = ({ parts }: PublishedHead): Map<string, PublishedSpec['parts'][number]> =>
    new Map(parts.map((part) => [part.table, part]));
  const difference = partsDifference(byTable(wanted), byTable(found));
  if (difference !== null) throw used(dir, `it is of another plan, ${difference.what}`, difference.details);
}
