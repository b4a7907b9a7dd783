import { Presets, SingleBar } from 'cli-progress';
import { formatBytes } from '../lab/report/numbers.js';

/** Work shorter than this shows no bar. */
const PATIENCE_MS = 500;

export type OnProgress = (done: number, total: number) => void;

/**
 * Runs work that reports how far it is, with a bar on stderr once it takes a while; nothing when stderr is not a terminal.
 * The unit says what is counted: bytes, requests, shards, steps, seconds.
 */
export async function withProgress<T>(
  label: string,
  unit: 'bytes' | 'requests' | 'shards' | 'steps' | 'seconds',
  work: (onProgress: OnProgress) => Promise<T>,
): Promise<T> {
  if (!process.stderr.isTTY) return work(() => undefined);
  const amount = (value: number): string => (unit === 'bytes' ? formatBytes(value) : `${value} ${unit}`);
  const bar = new SingleBar(
    {
      stream: process.stderr,
      clearOnComplete: true,
      hideCursor: true,
      format: (options, { progress, value, total, eta }) => {
        const width = options.barsize ?? 30;
        const filled = Math.round(progress * width);
        return `${label} ${'='.repeat(filled)}${' '.repeat(width - filled)} ${amount(value)} of ${amount(total)}, ${eta} s left`;
      },
    },
    Presets.legacy,
  );
  const startedAt = performance.now();
  try {
    return await work((done, total) => {
      if (bar.isActive) bar.update(done);
      else if (performance.now() - startedAt > PATIENCE_MS && done < total) bar.start(total, done);
    });
  } finally {
    bar.stop();
  }
}
