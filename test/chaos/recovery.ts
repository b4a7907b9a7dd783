import { MS, type Stage } from './case.js';
import type { Load } from './load.js';

/** Right answers have to be back so long after a fault is over. */
export const BACK_MS = 1000;

/** Every request that is sent so long after a fault was over is answered right; says how long it took. Called when the load has stopped. */
export function checkBack(stage: Stage, load: Load, overAt: number, over: string): void {
  const lastMs = Math.max(0, load.lastFailedAt - overAt);
  const rightMs = load.firstRightAfter(overAt) - overAt;
  const backMs = Math.max(lastMs, rightMs);
  stage.expect(backMs <= BACK_MS, `right answers came back ${MS(backMs)} after ${over}`);
  stage.figure('backMs', backMs);
  stage.saw(`every request right from ${MS(lastMs)} after ${over}, the first answer after ${MS(rightMs)}`);
}
