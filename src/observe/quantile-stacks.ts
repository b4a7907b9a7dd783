import { TerabagError } from '../errors.js';
import {
  addLayers,
  COMPUTE_LAYERS,
  type ComputeLayer,
  computeStack,
  EMBEDDED_LAYERS,
  type EmbeddedLayer,
  embeddedStack,
  LATENCY_LAYERS,
  type LatencyLayer,
  latencyStack,
  type Stack,
} from './stacks.js';
import type { TracedRequest } from './traced-request.js';

export interface QuantileStacks {
  readonly quantile: number;
  /** How many requests were averaged. */
  readonly requests: number;
  readonly latency: Stack<LatencyLayer>;
  readonly embedded: Stack<EmbeddedLayer>;
  readonly compute: Stack<ComputeLayer>;
  /** How often each shard was the bounding one, among these requests. */
  readonly bounding: Readonly<Record<string, number>>;
}

/**
 * The stacks at a quantile of latency: the mean over the requests around it, so that layers still add up. Those are, of n complete requests without
 * an error in the order of their latency, the one of nearest rank and share x n / 2 on either side.
 */
export function stacksAtQuantile(requests: readonly TracedRequest[], quantile: number, share = 0.02): QuantileStacks {
  const ascending = requests
    .filter(({ complete, error }) => complete && error === null)
    .sort((a, b) => a.endUs - a.startUs - (b.endUs - b.startUs));
  if (ascending.length === 0) throw new TerabagError('invalid_argument', `no traced request was answered: ${requests.length} requests`);
  if (!(quantile >= 0 && quantile <= 1))
    throw new TerabagError('invalid_argument', `quantile has to be from 0 to 1: ${quantile}`, { field: 'quantile' });
  const rank = Math.max(1, Math.ceil(quantile * ascending.length)) - 1;
  const beside = Math.floor((share * ascending.length) / 2);
  const around = ascending.slice(Math.max(0, rank - beside), rank + beside + 1);
  const embedded = around.map(embeddedStack);
  const bounding = new Map<string, number>();
  for (const shard of embedded.flatMap((stack) => stack.bounding)) bounding.set(shard, (bounding.get(shard) ?? 0) + 1);
  return {
    quantile,
    requests: around.length,
    latency: mean(LATENCY_LAYERS, around.map(latencyStack)),
    embedded: mean(EMBEDDED_LAYERS, embedded),
    compute: mean(COMPUTE_LAYERS, around.map(computeStack)),
    bounding: Object.fromEntries(bounding),
  };
}

function mean<Layer extends string>(names: readonly Layer[], stacks: readonly Stack<Layer>[]): Stack<Layer> {
  const layers = addLayers(
    names,
    stacks.map((stack) => stack.layers),
  );
  for (const name of names) layers[name] /= stacks.length;
  return { totalUs: stacks.reduce((total, stack) => total + stack.totalUs, 0) / stacks.length, layers };
}
