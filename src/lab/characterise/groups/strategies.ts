import { SPREADING_STRATEGIES } from '../../../plan/placement/strategies.js';
import type { Experiment } from '../experiment.js';
import { compare, estimateTurns, type Group, openLoopTurns, serialTurns, type Turns } from '../group.js';
import { type Compared, comparedWith, SINGULAR, sharded } from '../setup.js';

const setups = ({ scale }: Experiment): Compared[] =>
  comparedWith(SINGULAR, [
    sharded('one-shard', 1),
    ...SPREADING_STRATEGIES.flatMap((strategy) => scale.shards.map((shards) => sharded(strategy, shards))),
  ]);

const turns = (experiment: Experiment): Turns[] => [
  serialTurns(experiment, experiment.scale.rounds.strategies),
  openLoopTurns(experiment, experiment.scale.rounds.openLoop),
];

export const strategiesGroup: Group = {
  name: 'strategies',
  description: 'every strategy against all tables in one process: one request at a time, and at a steady rate',
  estimateMs: (experiment) => estimateTurns(setups(experiment), experiment, turns(experiment)),
  run: (experiment, _, onProgress) => compare(setups(experiment), experiment, turns(experiment), onProgress),
};
