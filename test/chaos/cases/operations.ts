import { closeSync, openSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Case, MS } from '../case.js';
import { ChaosCluster, openMain } from '../cluster.js';
import { Command, planFile, startUp } from '../command.js';
import { MainProcess } from '../main-process.js';
import { descriptorsOf, isAlive, within } from '../processes.js';
import { BACK_MS, checkBack } from '../recovery.js';
import { checkPromise, failuresOf, PATIENT_MS, RESTART_MS, RESTART_QPS, underLoad } from '../under-load.js';

const mainKilled: Case = {
  name: 'main-killed',
  does: 'kill -9 of one of two main shards under load; it is started again',
  required: 'no request of the other fails; the new one answers right within 1 s of its start; the shards keep no descriptor of the old',
  async run(stage) {
    const { plan, pids } = await ChaosCluster.start(stage).then((cluster) => ({ plan: cluster.plan, pids: cluster.pids }));
    const load = underLoad(stage, await openMain(stage, plan), { qps: stage.qps / 2, deadlineMs: PATIENT_MS });
    const task = { plan, model: stage.model, qps: stage.qps / 2, deadlineMs: PATIENT_MS };
    await sleep(300);
    const before = pids.map(descriptorsOf);
    const { main } = await MainProcess.start(stage, task);
    await sleep(1000);
    main.kill('SIGKILL');
    const { main: again } = await MainProcess.start(stage, task);
    await sleep(1000);
    const { window, firstRightMs, late } = await again.stop();
    const left = (): number => Math.max(...pids.map((pid, at) => descriptorsOf(pid) - (before[at] as number)));
    await within(3000, () => left() <= 0, 50);
    await load.stop();
    const others = load.window();
    stage.expect(others.failed === 0, `${others.failed} of ${others.total} requests of the other main failed: ${failuresOf(others)}`);
    stage.expect(
      window.failed === 0 && late === 0,
      `${window.failed} of ${window.total} requests of the new main failed: ${failuresOf(window)}`,
    );
    stage.expect(firstRightMs <= BACK_MS, `the first right answer came ${MS(firstRightMs)} after the start`);
    stage.expect(left() <= 0, `a shard kept ${left()} descriptors`);
    stage.saw(`first right answer ${MS(firstRightMs)} after the start; ${others.failed} of ${others.total} requests of the other failed`);
    checkPromise(stage, load);
  },
};

const supervisorKilled: Case = {
  name: 'supervisor-killed',
  does: 'kill -9 of terabag up under load; it is started again',
  required: 'no shard is left behind; requests end typed by their deadline; right answers within 1 s after it is up again',
  async run(stage) {
    const { plan, path } = await planFile(stage);
    const first = startUp(stage, path);
    await first.untilUp();
    const shards = first.shardPids;
    const load = underLoad(stage, await openMain(stage, plan));
    await sleep(500);
    const killedAt = performance.now();
    first.signal('SIGKILL');
    const gone = await within(10_000, () => !shards.some(isAlive));
    const goneMs = performance.now() - killedAt;
    stage.expect(gone && shards.length === 2, `shards are left behind: ${shards.filter(isAlive).join(', ')}`);
    const second = startUp(stage, path);
    await second.untilUp();
    const upAt = performance.now();
    await sleep(BACK_MS + 500);
    await load.stop();
    stage.saw(`the shards ended within ${MS(goneMs)}; meanwhile ${failuresOf(load.window())}`);
    checkBack(stage, load, upAt, 'it was up');
    checkPromise(stage, load);
    second.signal('SIGTERM');
    await second.ended(5000);
    stage.expect(second.end === 'code 0', `after SIGTERM it ended with ${second.end}`);
  },
};

const twoDaemons: Case = {
  name: 'two-daemons',
  does: 'a second terabag up of the same plan, and a second terabag shard of the same name and endpoint, beside those that serve',
  required: 'both end with exit code 1 and name the endpoint that is taken; no request fails',
  async run(stage) {
    const { plan, path } = await planFile(stage);
    const first = startUp(stage, path);
    await first.untilUp();
    const load = underLoad(stage, await openMain(stage, plan), { deadlineMs: PATIENT_MS });
    await sleep(300);
    const shard = plan.shards[0];
    const seconds = [startUp(stage, path), Command.start(stage, ['shard', path, '--name', shard?.name ?? '', '--bundle', stage.model.dir])];
    for (const second of seconds) {
      await second.ended(10_000);
      stage.expect(second.end === 'code 1', `a second one ended with ${second.end ?? 'nothing, and runs'}`);
      const told = second.errors.at(-1) ?? '';
      const named = plan.shards.some(({ endpoints }) => told.includes(endpoints[0] as string));
      stage.expect(named, `its last line names no endpoint: ${told}`);
    }
    await sleep(300);
    await load.stop();
    const all = load.window();
    stage.expect(all.failed === 0, `${all.failed} of ${all.total} requests failed: ${failuresOf(all)}`);
    stage.expect(first.end === null, `the first ended: ${first.end}`);
    stage.saw(`${all.failed} of ${all.total} failed; the second says: ${seconds[1]?.errors.at(-1)}`);
    checkPromise(stage, load);
  },
};

const fullLogDisk: Case = {
  name: 'full-log-disk',
  does: 'shards whose log (stderr) is on a full disk (/dev/full), under load, with one that is drained and restarted',
  required: 'no request fails, at a deadline of 5 s; after SIGTERM the shards end with exit code 0',
  async run(stage) {
    const { plan, path } = await planFile(stage);
    const full = openSync('/dev/full', 'w');
    const cluster = startUp(stage, path, stage.model, { stderr: full });
    closeSync(full);
    await cluster.untilUp();
    const load = underLoad(stage, await openMain(stage, plan), { qps: Math.min(stage.qps, RESTART_QPS), deadlineMs: RESTART_MS });
    await sleep(500);
    process.kill(cluster.shardPids[1] as number, 'SIGTERM');
    await within(5000, () => cluster.events.filter(({ what }) => what === 'ready').length === 3);
    await sleep(500);
    await load.stop();
    const all = load.window();
    stage.expect(all.failed === 0, `${all.failed} of ${all.total} requests failed: ${failuresOf(all)}`);
    cluster.signal('SIGTERM');
    await cluster.ended(5000);
    const exits = cluster.events.filter(({ what }) => what === 'exited').map(({ detail }) => detail);
    stage.expect(exits.length === 3 && exits.every((exit) => exit === 'code 0'), `the shards ended with ${exits.join(', ')}`);
    stage.saw(`${all.failed} of ${all.total} failed; shards ended with ${exits.join(', ')}`);
    checkPromise(stage, load);
  },
};

/** Holds this thread, and with it the event loop. */
function stall(ms: number): void {
  for (const until = performance.now() + ms; performance.now() < until; );
}

const loopStall: Case = {
  name: 'event-loop-stall',
  alone: true,
  does: "the application holds main's event loop for 400 ms, then for 2 s, under load",
  required: 'requests end right or typed; no shard is taken for lost; right answers within 1 s after it',
  async run(stage) {
    const cluster = await ChaosCluster.start(stage);
    const main = await openMain(stage, cluster.plan);
    const load = underLoad(stage, main);
    for (const ms of [400, 2000]) {
      await sleep(500);
      stall(ms);
      await sleep(0);
    }
    const overAt = performance.now();
    await sleep(BACK_MS + 500);
    await load.stop();
    const { lost } = main.stats();
    stage.expect(lost === 0, `shards were taken for lost ${lost} times`);
    stage.saw(`${failuresOf(load.window())}; shards lost ${lost} times`);
    checkBack(stage, load, overAt, 'the second stall');
    checkPromise(stage, load);
  },
};

export const OPERATIONS: readonly Case[] = [mainKilled, supervisorKilled, twoDaemons, fullLogDisk, loopStall];
