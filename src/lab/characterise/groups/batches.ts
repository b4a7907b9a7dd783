import { SPREADING_STRATEGIES } from '../../../plan/placement/strategies.js';
import type { BatchSweep, Characterisation } from '../../report/characterisation.js';
import { itemsOf } from '../../requests/split-request.js';
import { chosenSetup } from '../best.js';
import type { Experiment } from '../experiment.js';
import { compare, estimateTurns, type Group, serialTurns } from '../group.js';
import { batchSweepOf, type Measured } from '../measured.js';
import { type Compared, type Setup, SINGULAR, setupId } from '../setup.js';

const paperLike = (experiment: Experiment, results: Characterisation): Setup => ({
  ...chosenSetup(results, experiment.scale.shards),
  rpc: 'paper',
});

/** Requests are cut on both sides, as the paper does; its RPCs grow with the batches, those of one per request and shard do not. */
function setups(experiment: Experiment, results: Characterisation): Compared[] {
  const paper = paperLike(experiment, results);
  return [...experiment.scale.batchItems, null].flatMap((batchItems) => {
    const baseline = { ...SINGULAR, batchItems };
    const others = [{ ...paper, batchItems }, ...(batchItems === null ? [{ ...paper, rpc: 'coalesced' as const }] : [])];
    return [baseline, ...others].map((setup) => ({ setup, baseline }));
  });
}

/** The same number of shards by other strategies, in batches of the middle size: what a strategy's RPCs cost shows here. */
function otherStrategies(experiment: Experiment, results: Characterisation): Compared[] {
  const paper = paperLike(experiment, results);
  const { batchItems: sizes } = experiment.scale;
  const batchItems = sizes[Math.floor(sizes.length / 2)] ?? null;
  return SPREADING_STRATEGIES.filter((strategy) => strategy !== paper.strategy).map((strategy) => ({
    setup: { ...paper, strategy, batchItems },
    baseline: { ...SINGULAR, batchItems },
  }));
}

const allSetups = (experiment: Experiment, results: Characterisation): Compared[] => [
  ...setups(experiment, results),
  ...otherStrategies(experiment, results),
];

export const batchesGroup: Group = {
  name: 'batches',
  description: "requests cut into batches with the paper's RPCs, one per batch, net and shard",
  estimateMs: (experiment, results) =>
    estimateTurns(allSetups(experiment, results), experiment, [serialTurns(experiment, experiment.scale.rounds.others)]),
  run: async (experiment, results, onProgress): Promise<Measured> => {
    const turns = serialTurns(experiment, experiment.scale.rounds.others);
    const measured = await compare(allSetups(experiment, results), experiment, [turns], onProgress);
    const mostItems = Math.max(...experiment.requests.map((request) => itemsOf(request, experiment.spec.dense)));
    const sweep = (whole: Setup): BatchSweep => {
      const ids = [...experiment.scale.batchItems, null].map((batchItems) => setupId({ ...whole, batchItems }));
      return batchSweepOf(
        setupId(whole),
        measured.configurations.filter(({ id }) => ids.includes(id)),
        mostItems,
      );
    };
    return { ...measured, batchSweeps: [SINGULAR, paperLike(experiment, results)].map(sweep) };
  },
};
