import { setTimeout as sleep } from 'node:timers/promises';
import type { ShardedPredictor } from '../../../src/index.js';
import type { ShardMessage } from '../../../src/rpc/messages.js';
import { encodeShardMessage } from '../../reference/messages.js';
import { random } from '../../reference/small-model.js';
import type { Case, Stage } from '../case.js';
import { ChaosCluster, openMain } from '../cluster.js';
import { FalseShard, type Falsify } from '../false-shard.js';
import { BACK_MS, checkBack } from '../recovery.js';
import { checkPromise, failuresOf, PATIENT_MS, underLoad } from '../under-load.js';

type Pooled = Extract<ShardMessage, { kind: 'pooled' }>;

const SPAN_MS = 2000;
/** Of the answers of the false shard, as many are changed. */
const SHARE = 0.1;
/** Later than any request's deadline. */
const LATE_MS = PATIENT_MS + 100;

/** Changes a share of the answers. */
const sometimes = (stage: Stage, falsify: Falsify): Falsify => {
  const next = random(stage.seed);
  return (answer, bytes) => (next() < SHARE ? falsify(answer, bytes) : null);
};

interface FalseRun {
  readonly main: ShardedPredictor;
  readonly failed: number;
  readonly changed: number;
}

/** Load for a while on a shard whose answers are changed, then on the true one. */
async function withFalseShard(stage: Stage, falsify: Falsify): Promise<FalseRun> {
  const cluster = await ChaosCluster.start(stage);
  const between = await FalseShard.open(stage, cluster.plan.shards[1]?.endpoints[0] ?? '');
  const [first, second] = cluster.plan.shards;
  const plan = { ...cluster.plan, shards: [first!, { ...second!, endpoints: [between.endpoint] }] };
  const main = await openMain(stage, plan);
  const load = underLoad(stage, main, { deadlineMs: PATIENT_MS });
  await sleep(300);
  between.falsify = sometimes(stage, falsify);
  await sleep(stage.long ? 5 * SPAN_MS : SPAN_MS);
  between.falsify = null;
  const truthAt = performance.now();
  await sleep(LATE_MS + BACK_MS + 200);
  await load.stop();
  const all = load.window();
  stage.expect(between.numFalse > 0, 'no answer was changed');
  stage.figure('changed', between.numFalse);
  stage.saw(`${between.numFalse} answers changed, ${all.failed} of ${all.total} requests failed (${failuresOf(all)})`);
  checkBack(stage, load, truthAt, 'the last changed answer');
  checkPromise(stage, load);
  return { main, failed: all.failed, changed: between.numFalse };
}

const duplicate: Case = {
  name: 'duplicate-answers',
  does: 'a tenth of the answers of a shard comes twice',
  required: 'every request is answered right; the second answers are counted (unmatched)',
  async run(stage) {
    const { main, failed, changed } = await withFalseShard(stage, (_, bytes) => [{ bytes }, { bytes }]);
    stage.expect(failed === 0, `${failed} requests failed`);
    const { unmatched } = main.stats();
    stage.expect(unmatched === changed, `${unmatched} answers counted as unmatched, ${changed} came twice`);
  },
};

const late: Case = {
  name: 'late-answers',
  does: 'a tenth of the answers of a shard without a replica comes later than the deadline',
  required: 'these requests end typed (deadline_exceeded) by their deadline, all others right; late answers are used for none',
  async run(stage) {
    const { failed, changed } = await withFalseShard(stage, (_, bytes) => [{ bytes, afterMs: LATE_MS }]);
    stage.expect(failed <= changed, `${failed} requests failed, ${changed} answers were late`);
  },
};

/** The vectors of an answer under the id of another. */
function swapped(): Falsify {
  let last: Pooled | null = null;
  return (answer) => {
    // Memory of its own: that of a message is another's when it is released.
    const before = last;
    last = { ...answer, pooled: Uint8Array.from(answer.pooled) };
    if (before === null || before.pooled.byteLength !== answer.pooled.byteLength) return null;
    return [{ bytes: encodeShardMessage({ ...before, id: answer.id }) }];
  };
}

const foreign: Case = {
  name: 'foreign-answers',
  does: "a shard answers requests with another request's vectors of the same length, under the right id",
  required: 'no request is answered with them; requests end right or typed',
  run: async (stage) => void (await withFalseShard(stage, swapped())),
};

const changedBytes = (change: (bytes: Buffer, next: () => number) => Uint8Array): ((stage: Stage) => Falsify) => {
  return (stage) => {
    const next = random(stage.seed + 1);
    return (_, bytes) => [{ bytes: change(Buffer.from(bytes), next) }];
  };
};

const flippedBits: Case = {
  name: 'corrupt-answers',
  does: 'a bit of a tenth of the answers is flipped on their way',
  required: 'no request is answered with them; requests end right or typed',
  async run(stage) {
    const flip = changedBytes((bytes, next) => {
      const at = Math.floor(next() * bytes.length);
      bytes[at] = (bytes[at] as number) ^ (1 << Math.floor(next() * 8));
      return bytes;
    });
    await withFalseShard(stage, flip(stage));
  },
};

/** Another length, or values that are no numbers; the message itself is sound. */
const wrongVectors = (stage: Stage): Falsify => {
  const next = random(stage.seed + 2);
  const changes: readonly ((pooled: Uint8Array) => Uint8Array)[] = [
    (pooled) => pooled.subarray(0, pooled.byteLength - 4),
    (pooled) => pooled.subarray(0, pooled.byteLength - 1),
    (pooled) => Buffer.concat([pooled, Buffer.alloc(48)]),
    () => new Uint8Array(0),
    (pooled) => Buffer.concat([Buffer.from(Float32Array.of(Number.NaN).buffer), pooled.subarray(4)]),
    (pooled) => Buffer.concat([Buffer.from(Float32Array.of(Number.POSITIVE_INFINITY).buffer), pooled.subarray(4)]),
  ];
  return (answer) => {
    const change = changes[Math.floor(next() * changes.length)] as (pooled: Uint8Array) => Uint8Array;
    return [{ bytes: encodeShardMessage({ ...answer, pooled: change(answer.pooled) }) }];
  };
};

const falseVectors: Case = {
  name: 'false-vectors',
  does: 'a tenth of the answers of a shard has too few or too many values, or values that are no numbers',
  required: 'no request is answered with them; requests end right or typed',
  run: async (stage) => void (await withFalseShard(stage, wrongVectors(stage))),
};

const nonsense = (stage: Stage): Falsify => {
  const next = random(stage.seed + 3);
  const anything = (): Buffer => Buffer.from(Array.from({ length: Math.floor(next() * 300) }, () => Math.floor(next() * 256)));
  const deep = Buffer.alloc(100_000, 0x91);
  const lying = Buffer.from('9604a6706f6f6c656407cb4054600000000000c6ffffffff', 'hex');
  return (_, bytes) => {
    const kinds = [anything(), bytes.subarray(0, Math.floor(next() * bytes.length)), deep, lying, Buffer.alloc(0)];
    // The true one comes, too: that the connection serves on is what this is about.
    return [{ bytes: kinds[Math.floor(next() * kinds.length)] as Buffer }, { bytes }];
  };
};

const malformedAnswers: Case = {
  name: 'malformed-answers',
  does: 'before a tenth of its answers a shard sends random, cut, deeply nested, lying or empty messages',
  required: 'every request is answered right; they are counted (malformed)',
  async run(stage) {
    const { main, failed } = await withFalseShard(stage, nonsense(stage));
    stage.expect(failed === 0, `${failed} requests failed`);
    const { malformed } = main.stats();
    stage.expect(malformed > 0, 'none was counted as malformed');
    stage.saw(`${malformed} counted as malformed`);
  },
};

export const ANSWERS: readonly Case[] = [duplicate, late, foreign, flippedBits, falseVectors, malformedAnswers];
