// What a TypeScript project with the package writes to plan, publish, launch and ask: node planning.js BUNDLE OUT. Compiled by consumer.test.ts.
import {
  type AutoOptions,
  type Cluster,
  connect,
  DEFAULT_COSTS,
  type LaunchOptions,
  launchCluster,
  type Model,
  makePlan,
  OBJECTIVES,
  openModel,
  type Plan,
  type PlanOptions,
  type PlanPrediction,
  PlanPredictor,
  type Predictor,
  type PredictRequest,
  type Profile,
  type PublishedShard,
  planAuto,
  predictPlan,
  profileFromSpec,
  publish,
  type ShardEvent,
  TerabagError,
} from 'terabag';
import { profileRequests, readRequests, type SampledProfile } from 'terabag/lab';

const [bundle = '', out = '', requestsFile] = process.argv.slice(2);

const model: Model = await openModel(bundle);
const sampled: SampledProfile | null = requestsFile === undefined ? null : await profileRequests(model, requestsFile, { requests: 100 });
const profile: Profile = sampled?.profile ?? profileFromSpec(model.spec);

const options: PlanOptions = { shards: 2 };
const balanced: Plan = makePlan('capacity-balanced', model.spec, model.hash, profile, options);
const prediction: PlanPrediction = predictPlan(model, balanced, profile, DEFAULT_COSTS, { rpc: 'coalesced' });
const predictor = new PlanPredictor(model, profile, DEFAULT_COSTS);
const auto: AutoOptions = { ...options, objective: OBJECTIVES[0], localBytes: 0 };
const { plan, prediction: best, alternatives } = planAuto(predictor, model.hash, auto);
const refusals: string[] = alternatives.flatMap(({ strategy, refused }) => (refused === null ? [] : [`${strategy}: ${refused.code}`]));

const published: PublishedShard[] = await publish(plan, bundle, out);
const events: ShardEvent[] = [];
const launch: LaunchOptions = {
  bundle: out,
  ephemeralPorts: true,
  readyMs: 60_000,
  drainMs: 500,
  onEvent: (event) => void events.push(event),
};
const cluster: Cluster = await launchCluster(plan, launch);
const sharded: Predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle });
const bags = model.spec.nets.flatMap(({ layers }) => layers.flatMap((layer) => (layer.type === 'embedding_bag' ? [layer] : [])));
const request: PredictRequest = {
  items: 1,
  dense: Object.fromEntries(model.spec.dense.map(({ name, dim }) => [name, new Float32Array(dim)])),
  sparse: Object.fromEntries(
    bags.map(({ name, weighted }) => [name, { indices: [0], offsets: [0, 1], ...(weighted && { weights: [0.5] }) }]),
  ),
};
try {
  const { scores, items } = await sharded.predict(request, { deadlineMs: 60_000 });
  const refused = await launchCluster(plan, { ...launch, bundle: 'no-such-directory' }).catch((error: unknown) => error);
  console.log(
    JSON.stringify({
      ...{ items, scores: scores.length, shards: cluster.shards.length, directories: published.length, refusals },
      isBest: best.p99Us <= prediction.p99Us,
      ready: events.filter(({ what }) => what === 'ready').length,
      refused: refused instanceof TerabagError ? refused.code : String(refused),
      reads: typeof readRequests,
    }),
  );
} finally {
  await sharded.close();
  await cluster.stop();
}
