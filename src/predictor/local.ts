import { openDensePart } from '../engine/open-dense-part.js';
import { engineTables, openTables } from '../engine/tables.js';
import { anObject } from '../errors.js';
import { type Bundle, openBundle } from '../model/bundle.js';
import type { ResolvedModel } from '../model/graph.js';
import { MainShard, type Way } from './main-shard.js';
import { openUnlessAborted } from './opening.js';
import type { Predictor, PredictorOptions } from './predictor.js';
import { roundOnMain } from './rounds.js';

export type LocalOptions = PredictorOptions;

/** Opens a bundle in this process: the singular predictor, all tables here. */
export async function openLocal(bundleDir: string, options: LocalOptions = {}): Promise<Predictor> {
  anObject('options', options);
  return openUnlessAborted(options, (watched) => open(bundleDir, { ...options, ...watched }));
}

async function open(bundleDir: string, options: LocalOptions): Promise<Predictor> {
  const bundle = await openBundle(bundleDir, { verify: 'later' });
  const tables = engineTables(bundle, () => [{ part: 0, parts: 1 }]);
  const own = await openTables(bundle, tables, options);
  let way: Way | null = null;
  try {
    way = await wayOnMain(bundle, options);
    return new MainShard(bundle, [], own, { ...options, ...way, version: null });
  } catch (error) {
    await way?.net.close();
    own.engine.close();
    throw error;
  }
}

/** How a plan without shards is served. */
export async function wayOnMain(bundle: Bundle, options: PredictorOptions): Promise<Way> {
  // Nothing is won by layers that could run before the embeddings are there: one stage is one call, and rows stay in cache.
  const net = await openDensePart(bundle, 1, options);
  return { net, rounds: [roundOnMain(bundle.model as ResolvedModel)], onMain: true };
}
