import type { Clock } from '../clock.js';
import { TerabagError } from '../errors.js';
import type { Bundle } from '../model/bundle.js';
import { type FileChange, fileChanges } from '../model/bundle.js';

/** How often the files are looked at. */
const LOOK_MS = 2_000;

export interface TableFilesOptions {
  readonly bundle: Bundle;
  readonly clock: Clock;
  /** Rows are read from the files as they are now; else they are copies of what was checked. */
  readonly mapped: boolean;
  /** A file was written to where it lies: rows may be of two versions. */
  readonly onChanged: (error: TerabagError) => void;
  readonly warn: (fields: Readonly<Record<string, unknown>>, message: string) => void;
}

/**
 * Watches the files that a shard's tables were opened of. One that another was renamed over is still mapped as it was, and served. One that is written to
 * where it lies is not what was checked any more.
 */
export class TableFiles {
  readonly #replaced = new Set<string>();
  readonly #stop: () => void;
  #looking = false;

  constructor(private readonly options: TableFilesOptions) {
    this.#stop = options.clock.every(LOOK_MS, () => void this.#look());
  }

  /** Files under whose names others lie by now, or nothing. */
  get replaced(): number {
    return this.#replaced.size;
  }

  close(): void {
    this.#stop();
  }

  async #look(): Promise<void> {
    if (this.#looking) return;
    this.#looking = true;
    try {
      for (const change of await fileChanges(this.options.bundle)) this.#tell(change);
    } finally {
      this.#looking = false;
    }
  }

  #tell({ file, path, what }: FileChange): void {
    const { mapped, onChanged, warn } = this.options;
    if (what === 'written' && mapped) {
      const message = `file was written to while the shard served it; publish new files beside it and rename them: ${path}`;
      onChanged(new TerabagError('bad_table', message, { file, path }));
    } else if (!this.#replaced.has(file)) {
      this.#replaced.add(file);
      warn({ file, path }, 'a file was replaced: the shard serves what it was opened with until it is started again');
    }
  }
}
