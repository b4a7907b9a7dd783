import { setTimeout as sleep } from 'node:timers/promises';
import { connect, TerabagError } from '../../../src/index.js';
import { type Case, MS, type Stage } from '../case.js';
import { ChaosCluster, openMain } from '../cluster.js';
import { KeyFiles } from '../key-files.js';
import { checkPromise, failuresOf, PATIENT_MS, underLoad } from '../under-load.js';

const REFUSED_MS = 1500;
/** A file of keys that has changed is read anew within this. */
const SEEN_MS = 1500;

/** Two shards with two replicas each and a key, and a main shard that they let in. */
async function keyed(stage: Stage) {
  const keys = new KeyFiles(await stage.scratch());
  const [shard, main] = [keys.make('shard'), keys.make('main')];
  const allow = keys.list('allow', [main.publicKey]);
  const shardKey = keys.list('shard-keys', [shard.publicKey]);
  const cluster = await ChaosCluster.start(stage, { replicas: 2, security: { key: shard.file, allow } });
  return { keys, shard, main, allow, shardKey, cluster };
}

const wrongKey: Case = {
  name: 'wrong-key',
  does: 'beside a main shard with the right keys, three try to connect: with a key that is not allowed, with another key for the shards, without keys',
  required: 'all three are refused typed, and counted by the shards (strangers); no request of the first fails',
  async run(stage) {
    const { keys, shard, main, shardKey, cluster } = await keyed(stage);
    const first = await openMain(stage, cluster.plan, { security: { key: main.file, shardKey } });
    const load = underLoad(stage, first, { deadlineMs: PATIENT_MS });
    const stranger = keys.make('stranger');
    const attempts = {
      'a key that is not allowed': { key: stranger.file, shardKey },
      'another key for the shards': { key: main.file, shardKey: keys.list('other-shard-keys', [stranger.publicKey]) },
      'no keys': {},
    };
    for (const [what, security] of Object.entries(attempts)) {
      const end = await connect(cluster.plan, { bundle: stage.model.dir, readyMs: REFUSED_MS, security }).then(
        async (let_in) => {
          await let_in.close();
          return 'let in';
        },
        (error: unknown) => (error instanceof TerabagError ? error.code : 'untyped'),
      );
      stage.expect(end !== 'let in' && end !== 'untyped', `with ${what} it was ${end}`);
      stage.saw(`with ${what}: ${end}`);
    }
    await load.stop();
    const all = load.window();
    const strangers = (await first.shardStats()).reduce((sum, { stats }) => sum + (stats?.strangers ?? 0), 0);
    stage.expect(strangers > 0, 'the shards counted no stranger');
    stage.expect(all.failed === 0, `${all.failed} of ${all.total} requests failed: ${failuresOf(all)}`);
    stage.saw(
      `${strangers} counted, ${all.failed} of ${all.total} requests of the first failed; shards have key ${shard.publicKey.slice(0, 5)}...`,
    );
    checkPromise(stage, load);
  },
};

const rotation: Case = {
  name: 'key-rotation',
  boundMs: 60_000,
  does: "under load, main's key is changed (allowed beside the old, put in its place, the old taken away), then that of the shards (known to main beside the old, put in its place, each process restarted), and the old ones are taken away",
  required: 'no request fails; the old keys are refused afterwards',
  async run(stage) {
    const { keys, shard, main, shardKey, cluster } = await keyed(stage);
    const gone = keys.make('gone');
    const served = await openMain(stage, cluster.plan, { security: { key: main.file, shardKey } });
    const load = underLoad(stage, served, { deadlineMs: PATIENT_MS });
    await sleep(300);
    const newMain = keys.pair();
    keys.list('allow', [gone.publicKey, main.publicKey, newMain.publicKey]);
    await sleep(SEEN_MS);
    keys.put('main', newMain);
    const newShard = keys.pair();
    keys.list('shard-keys', [shard.publicKey, newShard.publicKey]);
    await sleep(SEEN_MS);
    keys.put('shard', newShard);
    const startedAt = performance.now();
    await cluster.restart();
    keys.list('allow', [newMain.publicKey]);
    keys.list('shard-keys', [newShard.publicKey]);
    await sleep(500);
    // Everybody connects anew, when the old keys are known to nobody.
    if (stage.long) await cluster.restart();
    await sleep(500);
    await load.stop();
    const all = load.window();
    stage.expect(all.failed === 0, `${all.failed} of ${all.total} requests failed: ${failuresOf(all)}`);
    const end = await connect(cluster.plan, { bundle: stage.model.dir, readyMs: REFUSED_MS, security: { key: gone.file, shardKey } }).then(
      () => 'let in',
      (error: unknown) => (error instanceof TerabagError ? error.code : 'untyped'),
    );
    stage.expect(end !== 'let in' && end !== 'untyped', `a key that is allowed no more was ${end}`);
    stage.saw(`${all.failed} of ${all.total} failed; it took ${MS(performance.now() - startedAt)}; a key that is allowed no more: ${end}`);
    checkPromise(stage, load);
  },
};

export const KEYS: readonly Case[] = [wrongKey, rotation];
