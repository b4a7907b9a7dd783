import { TerabagError } from '../../../errors.js';
import type { Characterisation } from '../../report/characterisation.js';
import { chosenSetup } from '../best.js';
import type { Experiment } from '../experiment.js';
import { compare, estimateTurns, type Group, serialTurns, type Turns } from '../group.js';
import type { Measured } from '../measured.js';
import { type Compared, comparedWith } from '../setup.js';

/** An experiment on hosts that not every system and user can emulate: then it is skipped, with the reason. */
function emulated(name: string, description: string, setups: (experiment: Experiment, results: Characterisation) => Compared[]): Group {
  const turns = (experiment: Experiment): Turns => serialTurns(experiment, experiment.scale.rounds.others);
  return {
    name,
    description,
    estimateMs: (experiment, results) => estimateTurns(setups(experiment, results), experiment, [turns(experiment)]),
    run: async (experiment, results, onProgress): Promise<Partial<Measured>> => {
      try {
        return await compare(setups(experiment, results), experiment, [turns(experiment)], onProgress);
      } catch (error) {
        const { code, message } = TerabagError.from(error);
        if (code !== 'unsupported') throw error;
        return { skipped: [{ experiment: name, reason: message }] };
      }
    },
  };
}

/** Shards that may use less than a core against shards without a limit. */
export const slowHostsGroup = emulated('slow-hosts', 'sparse shards on slower hosts', (experiment, results) => {
  const setup = chosenSetup(results, experiment.scale.shards);
  return comparedWith(
    setup,
    experiment.scale.shardCpuLimits.map((shardCpuLimit) => ({ ...setup, shardCpuLimit })),
  );
});

/** The baseline is on the emulated network too, without delay: what the emulation costs is not put down to the delay. */
export const networkGroup = emulated('network', 'delay and loss between main and the shards', (experiment, results) => {
  const setup = { ...chosenSetup(results, experiment.scale.shards), network: { delayMs: 0, loss: 0 } };
  return comparedWith(
    setup,
    experiment.scale.networks.map((network) => ({ ...setup, network })),
  );
});
