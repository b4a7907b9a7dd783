import type { Characterisation } from '../report/characterisation.js';
import type { Experiment } from './experiment.js';
import { addMeasured, type Measured, measuredTurns, NOTHING } from './measured.js';
import { type Compared, inParts } from './setup.js';
import { withStands } from './stand.js';
import { openLoopTurn, serialTurn, type TakeTurn, takeTurns } from './turns.js';

/** Experiments that are run, kept and resumed together. */
export interface Group {
  readonly name: string;
  readonly description: string;
  /** How long it takes. The results so far are those of the groups before it, as with run. */
  estimateMs(experiment: Experiment, results: Characterisation): number;
  /** onProgress: what is done, in ms of the estimate. */
  run(experiment: Experiment, results: Characterisation, onProgress: (doneMs: number) => void): Promise<Partial<Measured>>;
}

/** How often setups have a turn, and how long one is meant to take. */
export interface Turns {
  readonly rounds: number;
  readonly turnMs: number;
  readonly take: TakeTurn;
}

/** Starting a shard's process, its share of two cores. */
const START_MS = 300;
/** Connecting, before each turn. */
const CONNECT_MS = 60;
/** Serial requests take longer on shards; measured with DRM1 on two cores. */
const SHARDED_OVER_SINGULAR = 1.2;

const startMs = (compared: readonly Compared[]): number => compared.reduce((sum, { setup }) => sum + setup.shards * START_MS, 0);
const eachTurnMs = ({ scale }: Experiment, { turnMs }: Turns): number => CONNECT_MS + scale.warmUpMs + turnMs;

export const estimateTurns = (compared: readonly Compared[], experiment: Experiment, turns: readonly Turns[]): number =>
  startMs(compared) + turns.reduce((sum, each) => sum + compared.length * each.rounds * eachTurnMs(experiment, each), 0);

/** All requests one at a time, so often. */
export const serialTurns = (experiment: Experiment, rounds: number): Turns => ({
  rounds,
  turnMs: experiment.requests.length * experiment.serialMs * SHARDED_OVER_SINGULAR,
  take: serialTurn(experiment),
});

export const openLoopTurns = (experiment: Experiment, rounds: number): Turns => ({
  rounds,
  turnMs: experiment.scale.openLoopTurnMs,
  take: openLoopTurn(experiment),
});

/** Setups in turn, those of a part open at once. What was measured when the signal ended it is not whole: the caller drops it. */
export async function compare(
  compared: readonly Compared[],
  experiment: Experiment,
  allTurns: readonly Turns[],
  onProgress: (doneMs: number) => void,
): Promise<Measured> {
  const { signal } = experiment;
  let measured = NOTHING;
  let doneMs = 0;
  const add = (ms: number): void => {
    doneMs += ms;
    onProgress(doneMs);
  };
  for (const part of inParts(compared, experiment.mostShardsOpen)) {
    await withStands(
      part.map(({ setup }) => setup),
      experiment,
      async (stands) => {
        add(startMs(part));
        for (const turns of allTurns) {
          for (const { tracer } of stands) tracer?.clear();
          const { rounds, take } = turns;
          const taken = await takeTurns(stands, { rounds, signal, take, onTurn: () => add(eachTurnMs(experiment, turns)) });
          measured = addMeasured(measured, measuredTurns(part, stands, taken));
        }
      },
    );
    if (signal.aborted) break;
  }
  return measured;
}
