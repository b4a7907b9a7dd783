import { execFileSync } from 'node:child_process';
import { readFileSync, renameSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Plan, TerabagError } from '../../../src/index.js';
import { capacityPlan } from '../../reference/plans.js';
import { type Case, MS, type Stage } from '../case.js';
import { ChaosCluster, openMain } from '../cluster.js';
import { planFile, startUp } from '../command.js';
import { MemoryLimit, mappedBytes } from '../memory-limit.js';
import { within } from '../processes.js';
import { BACK_MS, checkBack } from '../recovery.js';
import { removeModel, type ServedModel, writeServedModel } from '../served-model.js';
import { checkPromise, failuresOf, PATIENT_MS, underLoad } from '../under-load.js';

/** Rows of the first table, of 48 bytes each: more than a page, which is all that a truncation takes away. */
const LARGE = [200_000, 7, 200] as const;
const FILE = 'tables/t0.safetensors';
const TABLE = 't0';
const TAKEN = 6 << 20;

/** A model of the case's own, to be damaged. */
async function ownModel(stage: Stage, rows?: readonly number[], seed = stage.seed): Promise<ServedModel> {
  const model = await writeServedModel(seed, rows === undefined ? {} : { rows });
  stage.defer(() => removeModel(model));
  return model;
}

/** The number of the shard that holds the table that is damaged. */
const holderOf = (plan: Plan): number => {
  const name = plan.tables.find(({ table }) => table === TABLE)?.parts[0];
  return plan.shards.findIndex((shard) => shard.name === name);
};

type Damage = (path: string) => void;

/** Beside the file, then renamed over it: what is mapped stays as it was. */
function replaceBy(path: string, change: (bytes: Buffer) => Buffer): void {
  writeFileSync(`${path}.new`, change(readFileSync(path)));
  renameSync(`${path}.new`, path);
}

const flipped: Damage = (path) =>
  replaceBy(path, (bytes) => {
    bytes[bytes.length - 5] = (bytes.at(-5) as number) ^ 1;
    return bytes;
  });

/** Launching on a damaged file is refused, whatever else; nothing of it is left running. */
async function refusedAtStart(stage: Stage, damage: Damage, codes: readonly string[]): Promise<void> {
  const model = await ownModel(stage);
  damage(join(model.dir, FILE));
  const refusal = await ChaosCluster.start(stage, { model }).then(
    () => null,
    (error: unknown) => error,
  );
  const code = refusal instanceof TerabagError ? refusal.code : String(refusal);
  stage.expect(codes.includes(code), refusal === null ? 'the shards serve it' : `it was refused as ${code}`);
  const message = refusal instanceof TerabagError ? refusal.message : '';
  stage.expect(message.includes(TABLE), `the refusal names neither file nor table: ${message}`);
  stage.saw(`${code}: ${message.replaceAll(model.dir, 'DIR')}`);
}

const DAMAGED = 'the shard refuses to start with an error that names the file';

const truncated: Case = {
  name: 'truncated-file',
  does: "a table's file is cut to half before the start",
  required: DAMAGED,
  run: (stage) =>
    refusedAtStart(stage, (path) => truncateSync(path, Math.floor(readFileSync(path).length / 2)), [
      'bad_table',
      'checksum_mismatch',
      'bad_model',
    ]),
};

const bitFlipped: Case = {
  name: 'flipped-bit',
  does: "a bit of a table's file is flipped before the start",
  required: DAMAGED,
  run: (stage) => refusedAtStart(stage, flipped, ['checksum_mismatch']),
};

const LIES: readonly (readonly [string, (bytes: Buffer) => Buffer])[] = [
  ['shape', (bytes) => Buffer.from(bytes.toString('latin1').replace('[50,12]', '[99,12]'), 'latin1')],
  [
    'offsets',
    (bytes) =>
      Buffer.from(
        bytes.toString('latin1').replace(/"data_offsets":\[0,(\d+)\]/, (all, end: string) => all.replace(end, '9'.repeat(end.length))),
        'latin1',
      ),
  ],
  [
    'header length',
    (bytes) => {
      bytes.writeBigUInt64LE(2n ** 63n);
      return bytes;
    },
  ],
];

const lying: Case = {
  name: 'lying-file',
  does: "the header of a table's file lies before the start: about the shape, the offsets, its own length",
  required: DAMAGED,
  async run(stage) {
    for (const [, lie] of LIES)
      await refusedAtStart(stage, (path) => replaceBy(path, lie), ['bad_table', 'checksum_mismatch', 'bad_model']);
  },
};

/** Load on a model whose file is then damaged; resolves when the shard has ended and is refused, or not in time. */
async function untilRefused(stage: Stage, cluster: ChaosCluster, since: number): Promise<void> {
  const refusal = () => cluster.events.find(({ at, what }) => at >= since && what === 'refused');
  await within(10_000, () => refusal() !== undefined);
  const told = refusal();
  stage.expect(told !== undefined, 'the restarted shard did not refuse the file');
  if (told !== undefined) stage.saw(`after its restart: ${told.detail}`);
}

const truncatedWhileMapped: Case = {
  name: 'truncated-while-mapped',
  does: "a table's file is cut to 4 KiB under a running shard of terabag up",
  required: 'the shard ends with a last line that names the file or table; started again, it refuses the file; requests end typed',
  async run(stage) {
    const model = await ownModel(stage, LARGE);
    const { plan, path } = await planFile(stage, model);
    const up = startUp(stage, path, model);
    await up.untilUp();
    const load = underLoad(stage, await openMain(stage, plan, { model }), { models: [model] });
    await sleep(500);
    truncateSync(join(model.dir, FILE), 4096);
    const told = (what: string) => up.events.find((event) => event.what === what);
    await within(10_000, () => told('refused') !== undefined);
    await load.stop();
    stage.expect(told('refused') !== undefined, 'the restarted shard did not refuse the file');
    const last = up.errors.find((line) => line.includes(TABLE) && !line.includes('expected'));
    stage.expect(last !== undefined, `no line of its log says why it ended: ${up.errors.slice(0, 3).join(' | ') || 'nothing is logged'}`);
    stage.saw(`it ended with ${told('exited')?.detail}, and says: ${last ?? 'nothing'}; after its restart: ${told('refused')?.detail}`);
    stage.saw(failuresOf(load.window()));
    checkPromise(stage, load);
  },
};

const replaced: Case = {
  name: 'replaced-file',
  does: "a table's file is replaced by one with other rows (renamed over it) under a running shard, which is then killed",
  required: 'answers stay right while it runs; started again, it refuses the file; requests end typed, none wrong',
  async run(stage) {
    const model = await ownModel(stage);
    const cluster = await ChaosCluster.start(stage, { model });
    const load = underLoad(stage, await openMain(stage, cluster.plan, { model }), { models: [model], deadlineMs: PATIENT_MS });
    await sleep(300);
    flipped(join(model.dir, FILE));
    await sleep(700);
    const killedAt = performance.now();
    cluster.signal('SIGKILL', holderOf(cluster.plan));
    await untilRefused(stage, cluster, killedAt);
    await load.stop();
    const before = load.window(0, killedAt - PATIENT_MS);
    stage.expect(before.failed === 0, `${before.failed} of ${before.total} requests failed before the kill: ${failuresOf(before)}`);
    stage.saw(failuresOf(load.window()));
    checkPromise(stage, load);
  },
};

/** A shard of a table of 9.6 MB, whose memory can be taken away. */
async function limitedShard(
  stage: Stage,
): Promise<{ readonly model: ServedModel; readonly cluster: ChaosCluster; readonly limit: MemoryLimit; readonly holder: number }> {
  const model = await ownModel(stage, LARGE);
  const plan = capacityPlan(model.spec, 2);
  const holder = holderOf(plan);
  // What was written lies in the cache of whoever wrote it; a shard that reads it anew pays for its pages itself.
  execFileSync('dd', [`of=${join(model.dir, FILE)}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0', 'status=none']);
  const limit = new MemoryLimit(stage);
  const cluster = await ChaosCluster.start(stage, { model, plan, hosts: limit.hosts(holder), residency: 'map', ephemeralPorts: true });
  return { model, cluster, limit, holder };
}

const droppedCache: Case = {
  name: 'dropped-cache',
  does: 'the pages of a shard (residency map) are taken away under load: five times, its memory is limited for a moment',
  required: 'no request fails, at a deadline of 1 s',
  needs: ['memory-limit'],
  async run(stage) {
    const { model, cluster, limit, holder } = await limitedShard(stage);
    const load = underLoad(stage, await openMain(stage, cluster.plan, { model }), { models: [model], deadlineMs: PATIENT_MS });
    await sleep(1000);
    const pid = cluster.pid(holder);
    const before = mappedBytes(pid, FILE);
    let least = before;
    for (let count = 0; count < 5; count++) {
      limit.take(before);
      least = Math.min(least, mappedBytes(pid, FILE));
      limit.lift();
      await sleep(200);
    }
    await load.stop();
    const all = load.window();
    stage.expect(least < before / 2, `the pages stayed: ${least} of ${before} bytes`);
    stage.expect(all.failed === 0, `${all.failed} of ${all.total} failed: ${failuresOf(all)}`);
    stage.saw(
      `${(before / 1e6).toFixed(1)} MB of the table in memory, ${(least / 1e6).toFixed(1)} MB after; ${all.failed} of ${all.total} failed, P99 ${MS(all.p99)}`,
    );
    checkPromise(stage, load);
  },
};

const memoryLimit: Case = {
  name: 'memory-limit',
  does: 'a shard (residency map) has 6 MiB less memory than it takes, most of its table, for 3 s under load, then as much as it likes',
  required:
    'requests end right or typed by their deadline; the shard goes on or is started again; right answers within 1 s after the limit is lifted or the ready line',
  needs: ['memory-limit'],
  async run(stage) {
    const { model, cluster, limit, holder } = await limitedShard(stage);
    const load = underLoad(stage, await openMain(stage, cluster.plan, { model }), { models: [model], deadlineMs: PATIENT_MS });
    await sleep(500);
    limit.take(TAKEN);
    await sleep(3000);
    limit.lift();
    const liftedAt = performance.now();
    const ended = cluster.events.filter(({ what }) => what === 'exited').length;
    const readyAt = ended === 0 ? liftedAt : await cluster.readyAfter(liftedAt - 3000, holder);
    await sleep(BACK_MS + 500);
    await load.stop();
    const during = load.window(liftedAt - 3000, liftedAt);
    stage.saw(
      `meanwhile ${during.right} of ${during.total} right (${failuresOf(during)}), P99 ${MS(during.p99)}; the shard ended ${ended} times`,
    );
    checkBack(stage, load, Math.max(readyAt, liftedAt), 'the limit was lifted');
    checkPromise(stage, load);
  },
};

export const FILES: readonly Case[] = [truncated, bitFlipped, lying, truncatedWhileMapped, replaced, droppedCache, memoryLimit];
