import type { ModelSpec } from '../../model/spec.js';
import type { Profile } from '../../plan/profile/profile.js';
import { ProfileBuilder } from '../../plan/profile/profile-builder.js';
import type { PredictRequest } from '../../predictor/predictor.js';
import { parseQuerySizes, QuerySizeSequence } from '../generate/query-sizes.js';
import { RequestGenerator } from '../generate/request-generator.js';
import { requestShapeOfSpec } from '../generate/request-shape.js';
import { SeededNumbers } from '../generate/synthetic-values.js';
import type { Characterisation } from '../report/characterisation.js';
import { requestsOfFile } from '../requests/request-file.js';
import { itemsOf } from '../requests/split-request.js';

export interface WorkloadOptions {
  /** A file of requests, in place of random ones. */
  readonly requests?: string;
  /** As parseQuerySizes takes it. */
  readonly items: string;
  readonly seed: number;
}

/** Requests one after another: of a file until it ends, or random ones that fit the model without end. */
export async function* requestSource(spec: ModelSpec, { requests, items, seed }: WorkloadOptions): AsyncGenerator<PredictRequest> {
  if (requests !== undefined) {
    yield* requestsOfFile(requests);
    return;
  }
  const sizes = new QuerySizeSequence(await parseQuerySizes(items), new SeededNumbers(seed));
  const generator = new RequestGenerator(requestShapeOfSpec(spec), seed);
  for (;;) yield generator.next(sizes.next());
}

/** What the requests ask of each table. A bag or sequence layer that a request leaves out counts as empty. */
export function profileOf(spec: ModelSpec, requests: readonly PredictRequest[]): Profile {
  const builder = new ProfileBuilder(spec);
  const layers = spec.nets.flatMap(({ layers: all }) => all).filter((layer) => 'table' in layer);
  for (const request of requests) {
    const bags = layers.map(({ name }) => {
      const { indices = [], offsets = [0] } = request.sparse[name] ?? {};
      return { numBags: offsets.length - 1, input: { indices, offsets } };
    });
    builder.add({ items: itemsOf(request, spec.dense), bags });
  }
  return builder.build();
}

export function describeWorkload(
  spec: ModelSpec,
  sent: readonly PredictRequest[],
  profile: Profile,
  { requests, items, seed }: WorkloadOptions,
): Characterisation['workload'] {
  return {
    items: requests === undefined ? items : `of ${requests}`,
    meanItems: profile.items.mean,
    mostItems: Math.max(...sent.map((request) => itemsOf(request, spec.dense))),
    reuse: requests === undefined ? 'as in published accesses of production models in training (trace-2021)' : `of ${requests}`,
    lookupsPerRequest: profile.tables.reduce((sum, { lookups }) => sum + lookups, 0),
    seed,
    requests: sent.length,
  };
}
