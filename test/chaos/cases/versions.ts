import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { launchCluster, type Plan, publish, TerabagError, writePlan } from '../../../src/index.js';
import { capacityPlan } from '../../reference/plans.js';
import { random } from '../../reference/small-model.js';
import { type Case, MS, type Stage } from '../case.js';
import { ChaosCluster, openMain } from '../cluster.js';
import { Command } from '../command.js';
import { BACK_MS, checkBack } from '../recovery.js';
import { isRight, removeModel, type ServedModel, writeServedModel } from '../served-model.js';
import { checkPromise, failuresOf, PATIENT_MS, underLoad } from '../under-load.js';

/** How long a shard of another version serves once it is known. */
const SKEWED_MS = 500;
/** A shard listens so long after its start at the latest. */
const THERE_MS = 10_000;

/** Another version of the model: other rows and weights under the same names. */
async function otherVersion(stage: Stage): Promise<ServedModel> {
  const model = await writeServedModel(stage.seed + 1, { version: '2' });
  stage.defer(() => removeModel(model));
  return model;
}

const skew: Case = {
  name: 'version-skew',
  does: 'one of two shards is replaced by one of another model at the same endpoint, then by one of another epoch of the plan, for 0.5 s each, then by the first version again; main keeps its version',
  required:
    'no answer mixes versions; requests end as model_mismatch, then as version_skew, and name both versions; right answers within 1 s after the first version is back',
  async run(stage) {
    const other = await otherVersion(stage);
    const cluster = await ChaosCluster.start(stage, { restart: false });
    const main = await openMain(stage, cluster.plan);
    const load = underLoad(stage, main, { models: [stage.model, other] });
    await sleep(500);
    cluster.signal('SIGKILL', 1);
    const [first, second] = cluster.plan.shards;
    const shardOf = async (plan: Plan, model: ServedModel): Promise<Command> => {
      const path = join(await stage.scratch(), 'plan.json');
      await writePlan(path, plan);
      return Command.start(stage, ['shard', path, '--name', second!.name, '--bundle', model.dir]);
    };
    const epoch = (cluster.plan.epoch ?? 0) + 1;
    const skews: readonly Skew[] = [
      {
        plan: { ...capacityPlan(other.spec, 2), shards: [first!, second!] },
        model: other,
        code: 'model_mismatch',
        names: [stage.model, other].map(({ hash }) => hash.slice(0, 12)),
      },
      {
        plan: { ...cluster.plan, epoch },
        model: stage.model,
        code: 'version_skew',
        names: [cluster.plan.epoch ?? 0, epoch].map((number) => `epoch ${number},`),
      },
    ];
    for (const { plan, model, code, names } of skews) {
      const wrong = await shardOf(plan, model);
      const told = await errorOnceThere(main, stage);
      const named = told?.code === code && names.every((name) => told.message.includes(name));
      const said = told === null ? 'answered' : `${told.message} (${told.code})`;
      stage.expect(named, `no ${code} that names both versions, ${names.join(' and ')}: ${said}`);
      stage.saw(said);
      await sleep(SKEWED_MS);
      wrong.signal('SIGTERM');
      await wrong.ended(5000);
    }
    const startedAt = performance.now();
    const again = await shardOf(cluster.plan, stage.model);
    await untilRight(main, stage, 10_000);
    const backAt = performance.now();
    await sleep(BACK_MS);
    await load.stop();
    stage.expect(again.end === null, `the first version ended: ${again.end}`);
    stage.saw(failuresOf(load.window()));
    stage.saw(`right again ${MS(backAt - startedAt)} after the start of its process`);
    checkBack(stage, load, backAt, 'the first version was back');
    checkPromise(stage, load);
  },
};

/** What a shard of another version is told by, and names of both versions. */
interface Skew {
  readonly plan: Plan;
  readonly model: ServedModel;
  readonly code: string;
  readonly names: readonly string[];
}

/** What requests fail with once a shard listens at its endpoint again; null when they are answered. */
async function errorOnceThere(main: Parameters<typeof underLoad>[1], stage: Stage): Promise<TerabagError | null> {
  for (const until = performance.now() + THERE_MS; ; ) {
    const told: unknown = await main.predict(stage.model.requests[0] as never, { deadlineMs: 200 }).then(
      () => null,
      (error: unknown) => error,
    );
    const away = told instanceof TerabagError && told.code === 'shard_unavailable';
    if (!away || performance.now() > until) return told === null ? null : TerabagError.from(told);
  }
}

/** Until one request is answered right. */
async function untilRight(main: Parameters<typeof underLoad>[1], stage: Stage, ms: number): Promise<void> {
  for (const until = performance.now() + ms; performance.now() < until; ) {
    const answer = await main.predict(stage.model.requests[0] as never, { deadlineMs: 200 }).catch(() => null);
    if (answer !== null && isRight([stage.model], 0, answer)) return;
  }
}

const halfPublished: Case = {
  name: 'half-finished-publish',
  does: 'terabag publish is killed with SIGKILL at a random moment, 4 times (20 in the long form); shards are launched on what it left; then it is run again',
  required: 'what it left is refused typed or serves right answers; after the next run it serves right answers',
  boundMs: 40_000,
  async run(stage) {
    const model = await writeServedModel(stage.seed, { rows: [200_000, 7, 200] });
    stage.defer(() => removeModel(model));
    const plan = capacityPlan(model.spec, 2);
    const dir = await stage.scratch();
    const path = join(dir, 'plan.json');
    await writePlan(path, plan);
    const next = random(stage.seed);
    const ends: Record<string, number> = {};
    for (let count = 0; count < (stage.long ? 20 : 4); count++) {
      const out = join(dir, `out-${count}`);
      const command = Command.start(stage, ['publish', path, out, '--bundle', model.dir]);
      await sleep(250 + next() * 350);
      command.signal('SIGKILL');
      await command.ended(1000);
      const end = await served(stage, plan, model, out);
      ends[end] = (ends[end] ?? 0) + 1;
      await publish(plan, model.dir, out);
      const again = await served(stage, plan, model, out);
      stage.expect(again === 'right', `published again, it ends as ${again}`);
    }
    stage.expect(
      ends['wrong'] === undefined && ends['untyped'] === undefined,
      `what a killed publish left ended as ${JSON.stringify(ends)}`,
    );
    stage.saw(
      `left: ${Object.entries(ends)
        .map(([end, number]) => `${number} ${end}`)
        .join(', ')}`,
    );
  },
};

/** What becomes of all requests to shards on a directory: right, wrong, or the code of what refuses them. */
async function served(stage: Stage, plan: Plan, model: ServedModel, bundle: string): Promise<string> {
  try {
    const cluster = await launchCluster(plan, { bundle, ephemeralPorts: true, logLevel: 'silent', restart: false, signal: stage.signal });
    try {
      const main = await openMain(stage, cluster.plan, { bundle });
      for (const [at, request] of model.requests.entries())
        if (!isRight([model], at, await main.predict(request, { deadlineMs: PATIENT_MS }))) return 'wrong';
      return 'right';
    } finally {
      await cluster.stop();
    }
  } catch (error) {
    return error instanceof TerabagError ? error.code : 'untyped';
  }
}

export const VERSIONS: readonly Case[] = [skew, halfPublished];
