import { openBundle } from './bundle.js';
import type { ResolvedModel } from './graph.js';
import type { ModelSpec } from './spec.js';

/** A model without the rows of its tables: what is needed to plan it, to predict its plans, and to profile requests to it. */
export interface Model {
  /** Directory of its bundle. */
  readonly dir: string;
  readonly spec: ModelSpec;
  /** Hash of the spec, 64 hexadecimal digits: plans and profiles are bound to it. */
  readonly hash: string;
  /** Its layers in order, with the dims of their inputs and outputs. */
  readonly model: ResolvedModel;
}

/**
 * Reads model.json and the dense weights of a bundle, and checks the layers against these; of tables it reads nothing.
 * @throws TerabagError bad_model (what is wrong with model.json), bad_table (the file of the weights is missing or cut short),
 * checksum_mismatch (it is damaged).
 */
export async function openModel(dir: string): Promise<Model> {
  const { spec, hash, model } = await openBundle(dir, { tables: new Set() });
  return { dir, spec, hash, model: model as ResolvedModel };
}
