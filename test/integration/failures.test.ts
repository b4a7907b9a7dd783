import { spawn } from 'node:child_process';
import { getEventListeners, once } from 'node:events';
import { cp, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  type Cluster,
  connect,
  type LaunchOptions,
  launchCluster,
  openLocal,
  type Plan,
  type Predictor,
  type PredictRequest,
  type ShardEvent,
  type ShardedPredictor,
  TerabagError,
} from '../../src/index.js';
import { readModelSpec } from '../../src/model/bundle.js';
import { modelHash } from '../../src/model/hash.js';
import type { ModelSpec } from '../../src/model/spec.js';
import { capacityPlan } from '../reference/plans.js';
import { settlesWithin } from '../reference/settles.js';
import { random, type SmallModel, smallRequest, writeSmallModel } from '../reference/small-model.js';

/** Requests have ended so long after their deadline. */
const GRACE_MS = 100;

let model: SmallModel;
let plan: Plan;
let local: Predictor;
beforeAll(async () => {
  model = await writeSmallModel(51);
  local = await openLocal(model.dir, { deadlineMs: 10_000 });
  const spec = await readModelSpec(model.dir);
  plan = capacityPlan(spec, 2);
});
afterAll(async () => {
  await local?.close();
  await rm(model.dir, { recursive: true });
});

interface Running {
  readonly cluster: Cluster;
  readonly predictor: ShardedPredictor;
  readonly events: string[];
}

async function running(restart: boolean, use: (running: Running) => Promise<void>): Promise<void> {
  const events: string[] = [];
  const cluster = await launchCluster(plan, {
    bundle: model.dir,
    ephemeralPorts: true,
    logLevel: 'error',
    restart,
    onEvent: ({ shard, what, detail }) => events.push(`${shard} ${what} ${detail}`),
  });
  try {
    const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle: model.dir });
    try {
      await use({ cluster, predictor, events });
    } finally {
      await predictor.close();
    }
  } finally {
    await cluster.stop();
  }
}

const small = (): PredictRequest => smallRequest(random(8), 3);
/** Enough ids that the shard pools it on a thread for tens of milliseconds. */
function large(): PredictRequest {
  const next = random(8);
  const indices = Int32Array.from({ length: 2_000_000 }, () => Math.floor(next() * 50));
  return { ...smallRequest(next, 3), sparse: { ...smallRequest(next, 3).sparse, sum: { indices, offsets: [0, indices.length] } } };
}

async function rejection(promise: Promise<unknown>): Promise<TerabagError> {
  const error = await promise.then(
    () => expect.fail('answered'),
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(TerabagError);
  return error as TerabagError;
}

test('a stalled shard makes requests end typed by their deadline, and answers right when it goes on', async () => {
  await running(false, async ({ cluster, predictor }) => {
    const expected = (await local.predict(small())).scores;
    cluster.kill('shard-1', 'SIGSTOP');
    try {
      // The first wait for an answer; later ones find the shard silent, and still wait for it until their deadline.
      for (let n = 0; n < 10; n++) {
        const asked = predictor.predict(small(), { deadlineMs: 250 });
        expect(await settlesWithin(250 + GRACE_MS, asked)).toBe(true);
        const error = await rejection(asked);
        expect(['deadline_exceeded', 'shard_unavailable']).toContain(error.code);
        expect(error.details['shard']).toBe('shard-1');
      }
      expect(predictor.stats()['lost']).toBe(1);
      const told = await predictor.shardStats();
      expect(told.map(({ shard, error }) => [shard, error?.code])).toEqual(
        plan.shards.map(({ name }) => [name, name === 'shard-1' ? 'shard_unavailable' : undefined]),
      );
    } finally {
      cluster.kill('shard-1', 'SIGCONT');
    }
    expect((await predictor.predict(small(), { deadlineMs: 10_000 })).scores).toEqual(expected);
    expect(predictor.stats()['inFlight']).toBe(0);
  });
});

test('a shard that gets SIGTERM answers what is in flight and ends with exit code 0', async () => {
  const request = large();
  const expected = (await local.predict(request, { deadlineMs: 20_000 })).scores;
  await running(false, async ({ cluster, predictor, events }) => {
    const home = plan.tables.find(({ table }) => table === 't0')?.parts[0] as string;
    const shard = plan.shards.findIndex(({ name }) => name === home);
    const outcomes = { right: 0, typed: 0 };
    const requests = Array.from({ length: 12 }, () =>
      predictor.predict(request, { deadlineMs: 3000 }).then(
        ({ scores }) => {
          expect(scores).toEqual(expected);
          outcomes.right++;
        },
        (error: TerabagError) => {
          expect(['shard_unavailable', 'deadline_exceeded']).toContain(error.code);
          outcomes.typed++;
        },
      ),
    );
    let inFlight = 0;
    while (inFlight === 0 && outcomes.right + outcomes.typed < 12) inFlight = (await predictor.shardStats())[shard]?.stats?.inFlight ?? 0;
    expect(inFlight).toBeGreaterThan(0);
    cluster.kill(home, 'SIGTERM');
    await expect.poll(() => events.filter((event) => event.includes('exited')), { timeout: 10_000 }).toEqual([`${home} exited code 0`]);
    await Promise.all(requests);
    expect(outcomes.right).toBeGreaterThanOrEqual(inFlight);
  });
});

test('a shard that is restarted for an update costs requests nothing but time', async () => {
  await running(true, async ({ cluster, predictor, events }) => {
    const expected = (await local.predict(small())).scores;
    let going = true;
    const lane = async (): Promise<void> => {
      while (going) expect((await predictor.predict(small(), { deadlineMs: 20_000 })).scores).toEqual(expected);
    };
    const lanes = Promise.all([lane(), lane(), lane()]);
    cluster.kill('shard-0', 'SIGTERM');
    await expect.poll(() => events.filter((event) => event.startsWith('shard-0 ready')).length, { timeout: 20_000 }).toBe(2);
    await sleep(50);
    going = false;
    await lanes;
    expect(predictor.stats()['errors']).toBe(0);
  });
});

test('two predictors share a cluster, and one may close while the other serves', async () => {
  await running(false, async ({ cluster, predictor }) => {
    const other = await connect(cluster.plan, { deadlineMs: 10_000, bundle: model.dir });
    const expected = (await local.predict(small())).scores;
    const answers = Array.from({ length: 200 }, (_, n) => (n % 2 === 0 ? predictor : other).predict(small()));
    for (const { scores } of await Promise.all(answers)) expect(scores).toEqual(expected);
    await other.close();
    expect((await predictor.predict(small())).scores).toEqual(expected);
  });
});

test('an abort ends a request at once, and the scratch of one that still runs is not lent to the next', async () => {
  await running(false, async ({ predictor }) => {
    const request = large();
    const expected = (await local.predict(small())).scores;
    for (const target of [local, predictor]) {
      const already = AbortSignal.abort('changed my mind');
      expect(await rejection(target.predict(small(), { signal: already }))).toMatchObject({ code: 'aborted', cause: 'changed my mind' });
      for (let n = 0; n < 5; n++) {
        const controller = new AbortController();
        const aborted = rejection(target.predict(request, { signal: controller.signal, deadlineMs: 20_000 }));
        controller.abort();
        expect((await aborted).code).toBe('aborted');
        expect(target.stats().inFlight).toBe(0);
        // Here the large one still runs on a thread, in buffers that nobody else may have.
        if (target === local) expect(target.stats().lingering).toBeGreaterThan(0);
        expect((await target.predict(small(), { deadlineMs: 20_000 })).scores).toEqual(expected);
      }
      await expect.poll(() => target.stats().lingering, { timeout: 20_000 }).toBe(0);
    }
  });
});

test('aborted requests to a stalled shard free their slots at once, and hold no memory', async () => {
  await running(false, async ({ cluster }) => {
    const narrow = await connect(cluster.plan, { deadlineMs: 10_000, bundle: model.dir, maxInFlight: 2 });
    try {
      const expected = (await local.predict(small())).scores;
      cluster.kill('shard-1', 'SIGSTOP');
      for (let n = 0; n < 20; n++) {
        const controller = new AbortController();
        const aborted = rejection(narrow.predict(small(), { signal: controller.signal, deadlineMs: 20_000 }));
        controller.abort();
        expect((await aborted).code).toBe('aborted');
        expect(narrow.stats().inFlight).toBe(0);
      }
      await expect.poll(() => narrow.stats().lingering).toBe(0);
      const waiting = [1, 2].map(() => narrow.predict(small(), { deadlineMs: 20_000 }));
      await expect(narrow.predict(small())).rejects.toMatchObject({ code: 'overloaded' });
      cluster.kill('shard-1', 'SIGCONT');
      for (const { scores } of await Promise.all(waiting)) expect(scores).toEqual(expected);
    } finally {
      cluster.kill('shard-1', 'SIGCONT');
      await narrow.close();
    }
  });
});

test('close during requests ends each right or as closed, also when it is called twice', async () => {
  await running(false, async ({ predictor }) => {
    const expected = (await local.predict(small())).scores;
    const another = await openLocal(model.dir, { deadlineMs: 10_000 });
    for (const target of [another, predictor]) {
      const requests = Array.from({ length: 20 }, (_, n) =>
        target.predict(n === 0 ? large() : small(), { deadlineMs: 20_000 }).then(
          ({ scores }) => n > 0 && expect(scores).toEqual(expected),
          (error: unknown) => expect(error).toMatchObject({ code: 'closed' }),
        ),
      );
      await Promise.all([target.close(), target.close()]);
      expect(target.stats()['inFlight']).toBe(0);
      await Promise.all(requests);
      await expect(target.predict(small())).rejects.toMatchObject({ code: 'closed' });
      await target.close();
    }
    await expect(predictor.shardStats()).rejects.toMatchObject({ code: 'closed' });
  });
});

test('requests beyond maxInFlight are refused as overloaded, and deadlines that are none as invalid', async () => {
  const narrow = await openLocal(model.dir, { deadlineMs: 10_000, maxInFlight: 2 });
  const outcomes = await Promise.allSettled(Array.from({ length: 4 }, () => narrow.predict(large(), { deadlineMs: 20_000 })));
  expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected', 'rejected']);
  expect((outcomes[2] as PromiseRejectedResult).reason).toMatchObject({ code: 'overloaded' });
  for (const deadlineMs of [0, -1, Number.NaN, Number.POSITIVE_INFINITY, '5' as unknown as number])
    await expect(narrow.predict(small(), { deadlineMs })).rejects.toMatchObject({
      code: 'invalid_argument',
      details: { field: 'deadlineMs' },
    });
  await expect(narrow.predict(small(), null as never)).rejects.toBeInstanceOf(TerabagError);
  expect((await narrow.predict(small())).items).toBe(3);
  await narrow.close();
});

test('a model that differs from the plan is refused on both sides', async () => {
  const other = await writeSmallModel(52, { version: '2' });
  await running(false, async ({ cluster }) => {
    await expect(connect(cluster.plan, { bundle: other.dir })).rejects.toMatchObject({ code: 'model_mismatch' });
    // A plan of the other model at the endpoints of these shards.
    const spec = await readModelSpec(other.dir);
    const wrong = { ...cluster.plan, model: { name: spec.name, version: spec.version, hash: modelHash(spec) } };
    await expect(connect(wrong, { bundle: other.dir, readyMs: 400 })).rejects.toMatchObject({ code: 'model_mismatch' });
    const [first, second] = cluster.plan.shards;
    const swapped = {
      ...cluster.plan,
      shards: [
        { ...first!, endpoints: second!.endpoints },
        { ...second!, endpoints: first!.endpoints },
      ],
    };
    await expect(connect(swapped, { bundle: model.dir, readyMs: 400 })).rejects.toMatchObject({ code: 'model_mismatch' });
  });
  await expect(launchCluster(plan, { bundle: other.dir, ephemeralPorts: true, logLevel: 'silent' })).rejects.toMatchObject({
    code: 'model_mismatch',
    message: expect.stringMatching(/^plan is of another model: /),
    details: { shard: expect.stringMatching(/^shard-[01]$/) },
  });
  await rm(other.dir, { recursive: true });
});

test('a predictor tells what is missing and stays usable: answers without a shard are degraded where that is allowed, and counted', async () => {
  await running(false, async ({ cluster, predictor, events }) => {
    expect(predictor.readiness()).toEqual({ ready: true, missing: [] });
    expect(predictor.version).toMatchObject({ modelHash: plan.model.hash, epoch: 0 });
    const told = await predictor.shardStats();
    expect(told.map(({ endpoint }) => endpoint)).toEqual(cluster.plan.shards.flatMap(({ endpoints }) => endpoints));
    expect(told.map(({ stats }) => [stats?.model, stats?.plan, stats?.epoch])).toEqual(
      told.map(() => [predictor.version.modelHash, predictor.version.planHash, 0]),
    );
    const lenient = await connect(cluster.plan, { deadlineMs: 10_000, bundle: model.dir, onShardFailure: 'default-embedding' });
    try {
      const whole = await lenient.predict(small());
      expect(whole.scores).toEqual((await local.predict(small())).scores);
      expect(whole.degraded).toBeUndefined();
      cluster.kill('shard-1', 'SIGKILL');
      await expect.poll(() => events.some((event) => event.startsWith('shard-1 exited'))).toBe(true);
      await expect.poll(() => lenient.readiness().ready).toBe(false);
      const lost = plan.tables.filter(({ parts }) => parts.includes('shard-1')).map(({ table }) => table);
      expect(lenient.readiness().missing).toMatchObject([{ shard: 'shard-1', tables: lost, reason: expect.stringContaining('shard-1') }]);
      const answer = lenient.predict(small(), { deadlineMs: 300 });
      expect(await settlesWithin(300, answer)).toBe(true);
      const { scores, degraded, missingTables } = await answer;
      expect({ degraded, missingTables }).toEqual({ degraded: true, missingTables: lost });
      const spec = await readModelSpec(model.dir);
      expect(scores).toEqual((await local.predict(withoutTables(spec, small(), lost))).scores);
      expect(lenient.stats()).toMatchObject({ degraded: 1, errors: 0 });
      // Nobody allowed that here.
      expect((await rejection(predictor.predict(small(), { deadlineMs: 300 }))).details['shard']).toBe('shard-1');
    } finally {
      await lenient.close();
    }
  });
});

function withoutTables(spec: ModelSpec, request: PredictRequest, tables: readonly string[]): PredictRequest {
  const sparse = Object.entries(request.sparse).map(([bag, given]) => {
    const layer = spec.nets.flatMap(({ layers }) => layers as readonly { name: string; table?: string }[]).find(({ name }) => name === bag);
    const empty = { indices: [], offsets: Array.from(given.offsets, () => 0), ...(given.weights && { weights: [] }) };
    return [bag, tables.includes(layer?.table ?? '') ? empty : given] as const;
  });
  return { ...request, sparse: Object.fromEntries(sparse) };
}

test('the opening of a predictor ends with its signal, and leaves no connection behind', async () => {
  await running(false, async ({ cluster }) => {
    const signal = AbortSignal.abort('no more');
    await expect(openLocal(model.dir, { signal })).rejects.toMatchObject({ code: 'aborted', cause: 'no more' });
    const nobody = {
      ...cluster.plan,
      shards: cluster.plan.shards.map((shard, at) => ({ ...shard, endpoints: [`tcp://127.0.0.1:${at + 1}`] })),
    };
    const ending = new AbortController();
    const opening = connect(nobody, { bundle: model.dir, readyMs: 60_000, signal: ending.signal });
    setTimeout(() => ending.abort('over'), 50);
    await expect(opening).rejects.toMatchObject({ code: 'aborted', cause: 'over' });
    expect(getEventListeners(ending.signal, 'abort')).toHaveLength(0);
    const early = await connect(nobody, { bundle: model.dir, readyMs: 0 });
    expect(early.readiness()).toMatchObject({ ready: false, missing: [{ shard: 'shard-0' }, { shard: 'shard-1' }] });
    await early.close();
  });
});

test('a main shard that has another plan of the model than its shards, or another epoch, is told so with both, and gets no answer', async () => {
  const everywhere = (names: string[]) => plan.tables.map(({ table }) => ({ table, parts: names }));
  const refusedBy = (cluster: Cluster, other: Partial<Plan>): Promise<void> => {
    const opened = connect({ ...cluster.plan, ...other }, { bundle: model.dir, readyMs: 500 });
    return expect(opened).rejects.toMatchObject({ code: 'version_skew', message: expect.stringMatching(/epoch \d, .* expected epoch \d/) });
  };
  const split = { ...plan, tables: everywhere(['shard-0', 'shard-1']) };
  const cluster = await launchCluster(split, { bundle: model.dir, ephemeralPorts: true, logLevel: 'error' });
  try {
    await refusedBy(cluster, { tables: everywhere(['shard-1', 'shard-0']) });
    await refusedBy(cluster, { tables: everywhere(['shard-1']) });
    await refusedBy(cluster, { epoch: 1 });
  } finally {
    await cluster.stop();
  }
  await running(false, ({ cluster: whole }) => refusedBy(whole, { tables: split.tables }));
});

const alive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

test('stopping a cluster leaves no process behind, not even a stalled one', async () => {
  const cluster = await launchCluster(plan, { bundle: model.dir, ephemeralPorts: true, logLevel: 'error' });
  const pids = cluster.shards.map(({ pid }) => pid);
  expect(pids.map(alive)).toEqual([true, true]);
  cluster.kill('shard-0', 'SIGSTOP');
  await cluster.stop();
  expect(pids.map(alive)).toEqual([false, false]);
});

test('a launch ends with its signal, and keeps nothing of the signal once it is over, whichever way it went', async () => {
  const controller = new AbortController();
  const { signal } = controller;
  const launch = (bundle: string) => launchCluster(plan, { bundle, ephemeralPorts: true, logLevel: 'silent', restart: false, signal });
  const cluster = await launch(model.dir);
  expect(getEventListeners(signal, 'abort')).toHaveLength(0);
  await cluster.stop();
  await expect(launch('no-such-bundle')).rejects.toMatchObject({ code: 'bad_model' });
  expect(getEventListeners(signal, 'abort')).toHaveLength(0);
  const starting = launch(model.dir);
  setTimeout(() => controller.abort('changed my mind'), 20);
  await expect(starting).rejects.toMatchObject({ code: 'aborted', cause: 'changed my mind' });
  expect(getEventListeners(signal, 'abort')).toHaveLength(0);
  await expect(launch(model.dir)).rejects.toMatchObject({ code: 'aborted' });
});

/** Runs a launch of the model's plan; gives its events as they come. */
async function watching(options: Partial<LaunchOptions>, test: (cluster: Cluster, events: ShardEvent[]) => Promise<void>): Promise<void> {
  const events: ShardEvent[] = [];
  const onEvent = (event: ShardEvent): void => void events.push(event);
  const cluster = await launchCluster(plan, { bundle: model.dir, ephemeralPorts: true, logLevel: 'silent', onEvent, ...options });
  try {
    await test(cluster, events);
  } finally {
    await cluster.stop();
  }
}

test('a restart needs nothing that lies in the directory of temporary files', async () => {
  const temporary = await mkdtemp(join(tmpdir(), 'terabag-cleaned-'));
  const before = process.env['TMPDIR'];
  process.env['TMPDIR'] = temporary;
  try {
    await watching({}, async (cluster, events) => {
      for (const entry of await readdir(temporary)) await rm(join(temporary, entry), { recursive: true });
      cluster.kill('shard-0', 'SIGKILL');
      const ready = (): number => events.filter(({ shard, what }) => shard === 'shard-0' && what === 'ready').length;
      await expect.poll(ready, { timeout: 20_000 }).toBe(2);
    });
  } finally {
    if (before === undefined) delete process.env['TMPDIR'];
    else process.env['TMPDIR'] = before;
    await rm(temporary, { recursive: true });
  }
});

test('a shard whose table was damaged since is not started again, and says why; the launcher of the damaged model is told the same', async () => {
  const damagedDir = await mkdtemp(join(tmpdir(), 'terabag-damaged-'));
  await cp(model.dir, damagedDir, { recursive: true });
  const refusal = { code: 'checksum_mismatch', message: expect.stringMatching(/^file is damaged: .*t\d/), details: { chunk: 0 } };
  try {
    await watching({ bundle: damagedDir }, async (cluster, events) => {
      for (const file of await readdir(join(damagedDir, 'tables'))) {
        const path = join(damagedDir, 'tables', file);
        const bytes = await readFile(path);
        bytes[bytes.length - 1] = (bytes.at(-1) as number) ^ 4;
        // The file that the other shard maps stays as it is.
        await writeFile(`${path}.new`, bytes);
        await rename(`${path}.new`, path);
      }
      cluster.kill('shard-1', 'SIGKILL');
      await expect.poll(() => events.at(-1), { timeout: 20_000 }).toMatchObject({ shard: 'shard-1', what: 'refused', error: refusal });
      await new Promise((resolve) => setTimeout(resolve, 500));
      expect(events.filter(({ shard }) => shard === 'shard-1').map(({ what }) => what)).toEqual([
        ...['ready', 'exited', 'restarting', 'exited', 'refused'],
      ]);
    });
    await expect(launchCluster(plan, { bundle: damagedDir, ephemeralPorts: true, logLevel: 'silent' })).rejects.toMatchObject(refusal);
  } finally {
    await rm(damagedDir, { recursive: true });
  }
});

test('shards drain and end when the process that launched them is killed', async () => {
  const script = `
    import { launchCluster } from ${JSON.stringify(new URL('../../dist/index.js', import.meta.url).href)};
    const cluster = await launchCluster(${JSON.stringify(plan)}, { bundle: ${JSON.stringify(model.dir)}, ephemeralPorts: true, logLevel: 'info' });
    console.log(cluster.shards.map(({ pid }) => pid).join(' '));
    setInterval(() => {}, 1000);`;
  const parent = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'pipe'] });
  const logged: { readonly name: string; readonly msg: string }[] = [];
  createInterface({ input: parent.stderr }).on('line', (line) => logged.push(JSON.parse(line)));
  const [line] = (await once(createInterface({ input: parent.stdout }), 'line')) as [string];
  const pids = line.split(' ').map(Number);
  expect(pids.map(alive)).toEqual([true, true]);
  parent.kill('SIGKILL');
  await expect.poll(() => pids.map(alive), { timeout: 10_000 }).toEqual([false, false]);
  const told = (msg: string): string[] => logged.filter((line) => line.msg === msg).map(({ name }) => name);
  for (const msg of ['draining', 'closed']) await expect.poll(() => told(msg).sort()).toEqual(['shard-0', 'shard-1']);
});
