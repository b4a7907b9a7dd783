import type { ResolvedModel } from '../../model/graph.js';
import type { Datatype } from './tensor.js';

/** What an input tensor is of its feature. flat: the ids of bags of one length, shape [B] or [B, k]. */
export type Role = 'dense' | 'values' | 'lengths' | 'offsets' | 'weights' | 'flat';

export interface TensorPlace {
  readonly feature: string;
  readonly role: Role;
}

/** An input or output as model metadata tells it; a dim of -1 is variable. */
export interface TensorSpec {
  readonly name: string;
  readonly datatype: Datatype;
  readonly shape: readonly number[];
  readonly optional?: true;
}

/** The names by which a model's inputs are known, and what metadata says of inputs and outputs. */
export interface Signature {
  /** Canonical names and, where these left them free, aliases. */
  readonly places: ReadonlyMap<string, TensorPlace>;
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
}

export const SCORES = 'scores';

/**
 * Of a dense feature `g`: `g` FP32 [1 or N, dim]. Of a bag or sequence layer `f`: `f.values` INT64 [ids], `f.lengths` [B] or `f.offsets` [B + 1],
 * `f.weights` FP32 [ids] where it is weighted. Aliases: `f` itself, bags of one length; and NVIDIA Merlin's `f__values`, `f__lengths`,
 * `f__offsets`. An alias gives way to any canonical name that is spelt the same.
 */
export function signatureOf(model: ResolvedModel): Signature {
  const places = new Map<string, TensorPlace>();
  const inputs: TensorSpec[] = [];
  const input = (place: TensorPlace, name: string, datatype: Datatype, shape: readonly number[], optional?: true): void => {
    if (places.has(name)) return;
    places.set(name, place);
    inputs.push({ name, datatype, shape, ...(optional && { optional }) });
  };
  for (const { name, dim } of model.dense) input({ feature: name, role: 'dense' }, name, 'FP32', [-1, dim]);
  for (const { name: feature, weighted } of model.bags) {
    input({ feature, role: 'values' }, `${feature}.values`, 'INT64', [-1]);
    input({ feature, role: 'lengths' }, `${feature}.lengths`, 'INT64', [-1]);
    input({ feature, role: 'offsets' }, `${feature}.offsets`, 'INT64', [-1], true);
    if (weighted) input({ feature, role: 'weights' }, `${feature}.weights`, 'FP32', [-1]);
  }
  for (const { name: feature } of model.bags) {
    const aliases: readonly (readonly [string, Role])[] = [
      [feature, 'flat'],
      [`${feature}__values`, 'values'],
      [`${feature}__lengths`, 'lengths'],
      [`${feature}__offsets`, 'offsets'],
    ];
    for (const [name, role] of aliases) if (!places.has(name)) places.set(name, { feature, role });
  }
  const outputs: TensorSpec[] = [
    { name: SCORES, datatype: 'FP32', shape: [-1, model.outputDim] },
    ...(model.outputs ?? []).map(({ name, dim }): TensorSpec => ({ name, datatype: 'FP32', shape: [-1, dim] })),
  ];
  return { places, inputs, outputs };
}
