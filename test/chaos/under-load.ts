import type { Predictor } from '../../src/index.js';
import type { Stage } from './case.js';
import { Load, type LoadOptions, type Window } from './load.js';

/** The default of predictors; in the short form more, since other work of the machine must make no request fail. */
const deadlineOf = ({ long }: Stage): number => (long ? 100 : 500);
/** Of cases that are not about time: what a busy machine adds makes no request of theirs fail. */
export const PATIENT_MS = 1000;

/** Of cases in which requests wait for the restart of a shard: longer than that takes, and fewer than a predictor lets in meanwhile (maxInFlight). */
export const RESTART_MS = 5000;
export const RESTART_QPS = 150;

/** Load on a predictor until the end of the case, at its rate. */
export function underLoad(stage: Stage, predictor: Pick<Predictor, 'predict'>, options: Partial<LoadOptions> = {}): Load {
  const load = new Load({ predictor, models: [stage.model], qps: stage.qps, deadlineMs: deadlineOf(stage), seed: stage.seed, ...options });
  stage.defer(() => load.stop());
  return load;
}

/** What holds in every case, whatever the fault: right or typed, by the deadline. */
export function checkPromise(stage: Stage, load: Load): void {
  const { outcomes } = load.window();
  const none = (outcome: string, what: string): void =>
    stage.expect((outcomes[outcome] ?? 0) === 0, `${outcomes[outcome]} requests ${what}`);
  none('wrong', 'were answered wrong');
  none('untyped', 'ended with an error that is no TerabagError');
  none('hung', 'did not end');
  none('internal', 'ended as internal errors');
  stage.expect(load.late === 0, `${load.late} requests ended later than their deadline`);
}

/** Counts by outcome, without the right ones. */
export const failuresOf = ({ outcomes }: Window): string =>
  Object.entries(outcomes)
    .flatMap(([outcome, count]) => (outcome === 'right' ? [] : [`${count} ${outcome}`]))
    .join(', ') || 'none failed';
