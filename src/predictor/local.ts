import { DenseNet } from '../engine/dense-net.js';
import { engineTables, openTables } from '../engine/tables.js';
import { anObject } from '../errors.js';
import { type Bundle, openBundle } from '../model/bundle.js';
import { inStages, type ResolvedModel } from '../model/graph.js';
import { MainShard, type Way } from './main-shard.js';
import type { Predictor, PredictorOptions } from './predictor.js';
import { roundOnMain } from './rounds.js';

export type LocalOptions = PredictorOptions;

/** Opens a bundle in this process: the singular predictor, all tables here. */
export async function openLocal(bundleDir: string, options: LocalOptions = {}): Promise<Predictor> {
  anObject('options', options);
  const bundle = await openBundle(bundleDir, { verify: 'later' });
  const model = bundle.model as ResolvedModel;
  const tables = engineTables(bundle, () => [{ part: 0, parts: 1 }]);
  const own = await openTables(bundle, tables, options);
  try {
    return new MainShard(bundle, [], own, { ...options, ...wayOnMain(model, bundle.dense, options) });
  } catch (error) {
    own.engine.close();
    throw error;
  }
}

/** How a plan without shards is served. */
export function wayOnMain(model: ResolvedModel, weights: Bundle['dense'], { precision }: PredictorOptions): Way {
  // Nothing is won by layers that could run before the embeddings are there: one stage is one call, and rows stay in cache.
  return { net: new DenseNet(inStages(model, 1), weights, precision), rounds: [roundOnMain(model)], onMain: true };
}
