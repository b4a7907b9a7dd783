import type { Characterisation } from '../report/characterisation.js';
import type { Experiment } from './experiment.js';
import { addMeasured, type Measured, measuredTurns } from './measured.js';
import { type Compared, inParts } from './setup.js';
import { closeStands, openStands } from './stand.js';
import { type TakeTurn, takeTurns } from './turns.js';

/** Experiments that are run, kept and resumed together. */
export interface Group {
  readonly name: string;
  readonly description: string;
  /** How long it takes, given the mean serial latency of all tables in one process. */
  estimateMs(experiment: Experiment, serialMs: number): number;
  /** The results so far are those of the groups before it. onProgress: done and all, in ms of the estimate. */
  run(experiment: Experiment, results: Characterisation, onProgress: (doneMs: number) => void): Promise<Measured>;
}

/** Starting a shard's process, its share of two cores. */
const START_MS = 250;
/** Opening tables or connecting, before each turn. */
const OPEN_MS = 60;

export interface Rounds {
  readonly rounds: number;
  readonly turnMs: number;
  readonly take: TakeTurn;
}

/** Serial requests take longer on shards; measured with DRM1 on two cores. */
const SHARDED_OVER_SINGULAR = 1.6;

export function estimateTurns(compared: readonly Compared[], { warmUpMs }: { readonly warmUpMs: number }, { rounds, turnMs }: Rounds): number {
  const starts = compared.reduce((sum, { setup }) => sum + setup.shards * START_MS, 0);
  return starts + compared.length * rounds * (OPEN_MS + warmUpMs + turnMs);
}

export const serialRounds = (experiment: Experiment, serialMs: number, take: TakeTurn): Rounds => ({
  rounds: experiment.rounds.serial,
  turnMs: experiment.requests.length * serialMs * SHARDED_OVER_SINGULAR,
  take,
});

/** Setups in turn, those of a part at once; what was measured when the signal ended it is dropped by the caller. */
export async function compare(
  compared: readonly Compared[],
  experiment: Experiment,
  { rounds, turnMs, take }: Rounds,
  onProgress: (doneMs: number) => void,
): Promise<Measured> {
  const { signal, scale } = experiment;
  let measured: Measured = {};
  let doneMs = 0;
  const add = (ms: number): void => {
    doneMs += ms;
    onProgress(doneMs);
  };
  for (const part of inParts(compared, experiment.mostShardsOpen)) {
    const stands = await openStands(
      part.map(({ setup }) => setup),
      experiment,
    );
    try {
      add(part.reduce((sum, { setup }) => sum + setup.shards * START_MS, 0));
      const turns = await takeTurns(stands, { rounds, signal, take, onTurn: () => add(OPEN_MS + scale.warmUpMs + turnMs) });
      measured = joinMeasured(measured, measuredTurns(part, stands, turns));
    } finally {
      await closeStands(stands);
    }
    if (signal.aborted) break;
  }
  return measured;
}
