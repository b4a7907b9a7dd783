import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { EmulationSupport } from '../../src/lab/index.js';
import type { Case, Need, Stage } from './case.js';
import type { ServedModel } from './served-model.js';

export interface Result {
  readonly name: string;
  readonly does: string;
  readonly required: string;
  readonly seen: string;
  readonly verdict: 'holds' | 'fails' | 'skipped';
  readonly failures: readonly string[];
  readonly figures: Readonly<Record<string, number>>;
  readonly seconds: number;
}

/** What all cases of a run have in common. */
export interface Setting {
  readonly seed: number;
  readonly long: boolean;
  readonly qps: number;
  readonly capacity: number;
  readonly model: ServedModel;
  readonly support: EmulationSupport;
}

const BOUND_MS = 30_000;
const LONG_FACTOR = 3;
/** An undo that takes longer is left behind, and fails the case. */
const UNDO_MS = 15_000;

/** What is undone when the process is told to end. */
const undoing = new Set<() => Promise<unknown>>();
export const undoAll = (): Promise<unknown> => Promise.all([...undoing].map((undo) => undo()));

/** Why a case cannot run here; null when it can. */
function missing(needs: readonly Need[], support: EmulationSupport): string | null {
  for (const need of needs) {
    if (need === 'network' && support.network !== null) return `needs root, for network namespaces: ${support.network}`;
    if (need === 'cpu' && support.cpu !== null) return `needs root, for control groups: ${support.cpu}`;
    if ((need === 'root' || need === 'memory-limit') && process.getuid?.() !== 0) return 'needs root';
  }
  return null;
}

/** Runs a case to its end, within its bound; never rejects. */
export async function runCase(test: Case, setting: Setting): Promise<Result> {
  const { name, does, required, needs = [], boundMs = BOUND_MS } = test;
  const told = { name, does, required };
  const reason = missing(needs, setting.support);
  if (reason !== null) return { ...told, seen: `skipped: ${reason}`, verdict: 'skipped', failures: [], figures: {}, seconds: 0 };
  const startedAt = performance.now();
  const failures: string[] = [];
  const seen: string[] = [];
  const figures: Record<string, number> = {};
  const over = new AbortController();
  const undos: (() => Promise<unknown> | unknown)[] = [];
  const undo = async (): Promise<void> => {
    for (let next = undos.pop(); next !== undefined; next = undos.pop())
      await bounded(UNDO_MS, Promise.resolve(next()), 'to stop what was started');
  };
  const stage: Stage = {
    ...setting,
    signal: over.signal,
    defer: (next) => void undos.push(next),
    expect: (holds, otherwise) => void (holds || failures.push(otherwise)),
    saw: (what) => void seen.push(what),
    figure: (figure, value) => {
      figures[figure] = value;
    },
    async scratch() {
      const dir = await mkdtemp(join(tmpdir(), 'terabag-chaos-'));
      undos.push(() => rm(dir, { recursive: true, force: true }));
      return dir;
    },
  };
  let unhandled = 0;
  const onUnhandled = (error: unknown): void => {
    if (unhandled++ === 0) failures.push(`a promise was rejected that nobody waits for: ${String(error)}`);
  };
  process.on('unhandledRejection', onUnhandled);
  undoing.add(undo);
  try {
    await bounded(boundMs * (setting.long ? LONG_FACTOR : 1), test.run(stage), 'to run');
  } catch (error) {
    failures.push(error instanceof Error ? `${error.message}` : String(error));
  }
  over.abort();
  await undo().catch((error: unknown) => failures.push(error instanceof Error ? error.message : String(error)));
  undoing.delete(undo);
  process.off('unhandledRejection', onUnhandled);
  const seconds = (performance.now() - startedAt) / 1000;
  return { ...told, seen: seen.join('; '), verdict: failures.length === 0 ? 'holds' : 'fails', failures, figures, seconds };
}

async function bounded(ms: number, work: Promise<unknown>, what: string): Promise<void> {
  const ended = new AbortController();
  const late = sleep(ms, undefined, { signal: ended.signal }).then(
    () => {
      throw new Error(`took longer than ${ms / 1000} s ${what}`);
    },
    () => undefined,
  );
  await Promise.race([work, late]).finally(() => ended.abort());
}
