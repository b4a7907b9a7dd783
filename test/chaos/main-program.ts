import { connect, type Plan } from '../../src/index.js';
import { Load, type Window } from './load.js';
import type { ServedModel } from './served-model.js';

// A main shard in a process of its own, for cases that end or starve one: it serves a load, and tells what became of it.

export interface MainTask {
  readonly plan: Plan;
  readonly model: ServedModel;
  readonly qps: number;
  readonly deadlineMs: number;
}

export type MainReport =
  | { readonly kind: 'connected'; readonly tookMs: number }
  | {
      readonly kind: 'ended';
      readonly window: Window;
      readonly late: number;
      /** From the time that it was asked about: the first right answer to a request that was sent from then on. */
      readonly firstRightMs: number;
      /** When the last request that failed was sent; 0 when none did from then on. */
      readonly lastFailedMs: number;
    };

/** Ends the load. sinceEpochMs: the time that it is asked about, on the clock of all processes; null: the start. */
export interface MainStop {
  readonly sinceEpochMs: number | null;
}

const tell = (report: MainReport): void => void process.send?.(report);

process.once('message', async ({ plan, model, qps, deadlineMs }: MainTask) => {
  const startedAt = performance.now();
  const predictor = await connect(plan, { bundle: model.dir });
  tell({ kind: 'connected', tookMs: performance.now() - startedAt });
  const load = new Load({ predictor, models: [model], qps, deadlineMs });
  process.once('message', async ({ sinceEpochMs }: MainStop) => {
    await load.stop();
    const since = sinceEpochMs === null ? startedAt : sinceEpochMs - performance.timeOrigin;
    const [firstRightMs, lastFailedMs] = [load.firstRightAfter(since) - since, Math.max(0, load.lastFailedAt - since)];
    tell({ kind: 'ended', window: load.window(), late: load.late, firstRightMs, lastFailedMs });
    await predictor.close();
    process.disconnect();
  });
});
// Whoever started it is gone.
process.on('disconnect', () => process.exit(0));
