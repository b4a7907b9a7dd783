import { setTimeout as sleep } from 'node:timers/promises';
import { type Prediction, type Predictor, TerabagError } from '../../../src/index.js';
import { random } from '../../reference/small-model.js';
import { type Case, MS, type Stage } from '../case.js';
import { ChaosCluster, openMain } from '../cluster.js';
import { capacityOf, type Load } from '../load.js';
import { dutyCycle, rssOf, within } from '../processes.js';
import { BACK_MS, checkBack } from '../recovery.js';
import { isRight } from '../served-model.js';
import { checkPromise, failuresOf, PATIENT_MS, underLoad } from '../under-load.js';

const MIB = 1 << 20;
const OVERLOAD_DEADLINE_MS = 100;
/** What the generator, which shares main's event loop, has to make of what it was told, in multiples of the maximum. */
const LEAST_OFFERED = 2.5;
/** Queues and buffers that have grown to their bounds; a queue without one grows by this in a second. */
const MOST_GROWTH = 64 * MIB;

const overload: Case = {
  name: 'overload',
  alone: true,
  does: 'three times as many requests as two shards and main answer at most, for 4 s (20 s in the long form), with a deadline of 100 ms',
  required:
    'memory flat over the second half; right answers within 1 s after it; in the long form, right answers above 80 % of the maximum, and P99 of the answered within the deadline',
  boundMs: 45_000,
  async run(stage) {
    const cluster = await ChaosCluster.start(stage);
    const main = await openMain(stage, cluster.plan);
    const most = await capacityOf(main, [stage.model], 1000);
    const spanMs = stage.long ? 20_000 : 4000;
    const load = underLoad(stage, main, { qps: 3 * most, deadlineMs: OVERLOAD_DEADLINE_MS, burst: Number.POSITIVE_INFINITY });
    const startedAt = performance.now();
    await sleep(spanMs / 2);
    const pids = [process.pid, ...cluster.pids];
    const half = pids.map(rssOf);
    await sleep(spanMs / 2);
    const grown = pids.slice(1).map((pid, at) => (rssOf(pid) - (half[at + 1] as number)) / MIB);
    const endedAt = performance.now();
    load.qps = Math.min(stage.qps, most / 4);
    await sleep(BACK_MS + 500);
    await load.stop();
    report(stage, load, { startedAt: startedAt + 500, endedAt, most });
    stage.expect(Math.max(...grown) * MIB <= MOST_GROWTH, `shards grew by ${grown.map((mib) => mib.toFixed(0)).join(', ')} MiB`);
    stage.saw(`shards grew by ${grown.map((mib) => mib.toFixed(1)).join(', ')} MiB`);
    checkBack(stage, load, endedAt, 'it');
    checkPromise(stage, load);
  },
};

function report(stage: Stage, load: Load, { startedAt, endedAt, most }: { startedAt: number; endedAt: number; most: number }): void {
  const during = load.served(startedAt, endedAt);
  const perSecond = (count: number): number => (count * 1000) / (endedAt - startedAt);
  const [offered, goodput] = [perSecond(during.total), perSecond(during.right)];
  stage.expect(!stage.long || offered >= LEAST_OFFERED * most, `only ${Math.round(offered)} requests a second were made`);
  // Seconds on a machine that others share say little of rates.
  stage.expect(
    !stage.long || goodput >= 0.8 * most,
    `${Math.round(goodput)} right answers a second, ${((goodput / most) * 100).toFixed(0)} % of ${Math.round(most)}`,
  );
  stage.expect(!stage.long || during.p99 <= OVERLOAD_DEADLINE_MS, `P99 of the answered was ${MS(during.p99)}`);
  stage.figure('goodputShare', goodput / most);
  stage.figure('answeredP99Ms', during.p99);
  stage.saw(
    `${Math.round(offered)} offered a second, ${Math.round(goodput)} right of ${Math.round(most)} at most, P99 of these ${MS(during.p99)}; ${failuresOf(during)}`,
  );
}

/** Asks, and gives up after a moment. Resolves to how it ended. */
async function askAndAbort(predictor: Predictor, stage: Stage, at: number, afterMs: number): Promise<string> {
  const controller = new AbortController();
  const position = at % stage.model.requests.length;
  const asked = predictor.predict(stage.model.requests[position] as never, { signal: controller.signal, deadlineMs: PATIENT_MS });
  if (afterMs === 0) controller.abort();
  else setTimeout(() => controller.abort(), afterMs);
  return asked.then(
    (answer: Prediction) => (isRight([stage.model], position, answer) ? 'right' : 'wrong'),
    (error: unknown) => (error instanceof TerabagError ? error.code : 'untyped'),
  );
}

const abortStorm: Case = {
  name: 'abort-storm',
  alone: true,
  does: 'beside the load, four requests for each of its are aborted: half at once, half within 3 ms',
  required: 'aborted requests end as aborted or right; none of the others fails; afterwards nothing is in flight on main or shards',
  async run(stage) {
    const cluster = await ChaosCluster.start(stage);
    const main = await openMain(stage, cluster.plan);
    const load = underLoad(stage, main, { deadlineMs: PATIENT_MS });
    const next = random(stage.seed);
    const ends: Record<string, number> = {};
    const asked: Promise<void>[] = [];
    const perTick = Math.max(1, Math.round((4 * stage.qps) / 500));
    for (const until = performance.now() + 2000; performance.now() < until; await sleep(2))
      for (let count = 0; count < perTick; count++)
        asked.push(
          askAndAbort(main, stage, asked.length, next() < 0.5 ? 0 : 1 + Math.floor(next() * 3)).then((end) => {
            ends[end] = (ends[end] ?? 0) + 1;
          }),
        );
    await Promise.all(asked);
    await load.stop();
    const all = load.window();
    const { aborted = 0, right = 0, ...others } = ends;
    stage.expect(all.failed === 0, `${all.failed} of ${all.total} of the others failed: ${failuresOf(all)}`);
    stage.expect(Object.keys(others).length === 0 && aborted > 0, `they ended as ${JSON.stringify(ends)}`);
    const idle = async (): Promise<boolean> =>
      main.stats().inFlight +
        main.stats().lingering +
        (await main.shardStats()).reduce((sum, { stats }) => sum + (stats?.inFlight ?? 1), 0) ===
      0;
    stage.expect(await within(1000, idle), 'requests are still in flight after 1 s');
    stage.saw(
      `${aborted} aborted, ${right} right; ${all.failed} of ${all.total} of the others failed; ${main.stats().cancelled} cancelled on shards`,
    );
    checkPromise(stage, load);
  },
};

const deadlineStorm: Case = {
  name: 'deadline-storm',
  alone: true,
  does: 'requests with deadlines of 2 ms, 1000 a second, while both shards run a tenth of the time: nearly all expire; patient ones beside them',
  required:
    'each ends by its deadline, right or typed; of the patient ones none fails; shards answer nothing that has expired but by an error',
  async run(stage) {
    const cluster = await ChaosCluster.start(stage);
    const main = await openMain(stage, cluster.plan);
    const patient = underLoad(stage, main, { qps: 100, deadlineMs: PATIENT_MS });
    await sleep(300);
    const ends = cluster.pids.map((pid) => dutyCycle(pid, { runMs: 3, stopMs: 27 }));
    const storm = underLoad(stage, main, { qps: 1000, deadlineMs: 2 });
    await sleep(2000);
    await storm.stop();
    for (const end of ends) end();
    const overAt = performance.now();
    await sleep(BACK_MS);
    await patient.stop();
    const [hurried, others] = [storm.window(), patient.window()];
    stage.expect(others.failed === 0, `${others.failed} of ${others.total} patient requests failed: ${failuresOf(others)}`);
    const stats = (await main.shardStats()).flatMap(({ stats: told }) => told ?? []);
    const expired = stats.reduce((sum, shard) => sum + shard.expired, 0);
    const cancelled = stats.reduce((sum, shard) => sum + shard.cancelled, 0);
    stage.expect(expired + cancelled > 0, 'the shards dropped nothing');
    stage.saw(
      `${hurried.right} of ${hurried.total} hurried ones right (${failuresOf(hurried)}); shards dropped ${expired} expired and ${cancelled} cancelled; ${others.failed} of ${others.total} patient ones failed`,
    );
    checkBack(stage, patient, overAt, 'it');
    checkPromise(stage, storm);
    checkPromise(stage, patient);
  },
};

export const OVERLOAD: readonly Case[] = [overload, abortStorm, deadlineStorm];
