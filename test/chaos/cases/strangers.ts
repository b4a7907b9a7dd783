import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Dealer } from 'zeromq';
import type { SparseBatch } from '../../../src/engine/sparse-batch.js';
import { servedVersionOf } from '../../../src/plan/file/plan.js';
import { encodeClientMessage } from '../../../src/rpc/codec.js';
import { stampOf } from '../../../src/rpc/version.js';
import { capacityPlan } from '../../reference/plans.js';
import { random } from '../../reference/small-model.js';
import type { Case, Stage } from '../case.js';
import { ChaosCluster, openMain } from '../cluster.js';
import { rssOf, within } from '../processes.js';
import { checkPromise, failuresOf, PATIENT_MS, underLoad } from '../under-load.js';
import { frame, frameHead, greetedConnection, rawConnection, written } from '../zmtp.js';

const SPAN_MS = 2000;
const MIB = 1 << 20;
/** What strangers may make a shard grow by while they are there: a connection may have 128 MiB of answers that it does not read, and as much is on its way. */
const MOST_GROWTH = 256 * MIB;
/** And when they have gone. */
const MOST_KEPT = 64 * MIB;
/** Longer than handshakes are waited for. */
const GONE_MS = 3000;

/** Does something to a shard's endpoint until it is over. */
type Stranger = (endpoint: string, over: AbortSignal, stage: Stage) => Promise<void>;

/** A question that shard 0 takes for one: of a table that it holds, in the version that it serves. */
function questionOf({ model: { spec } }: Stage): (id: number, bags: number) => Buffer {
  const plan = capacityPlan(spec, 2);
  const held = plan.tables.find(({ parts }) => parts[0] === plan.shards[0]?.name)?.table;
  const table = spec.tables.findIndex(({ name }) => name === held);
  const stamp = stampOf(servedVersionOf(plan));
  return (id, bags) =>
    encodeClientMessage({
      kind: 'pool',
      id,
      stamp,
      sentAtMs: performance.now(),
      remainingMs: 10_000,
      batch: emptyBags(table, bags),
      timed: false,
    });
}

/** Load on a cluster while a stranger is at one of its shards: nobody else notices. */
async function beside(stage: Stage, stranger: Stranger, cluster?: ChaosCluster): Promise<void> {
  const served = cluster ?? (await ChaosCluster.start(stage));
  const load = underLoad(stage, await openMain(stage, served.plan), { deadlineMs: PATIENT_MS });
  await sleep(500);
  const pid = served.pid(0);
  const before = rssOf(pid);
  const over = new AbortController();
  stage.defer(() => over.abort());
  let most = before;
  const watch = setInterval(() => {
    most = Math.max(most, rssOf(pid));
  }, 20);
  stage.defer(() => clearInterval(watch));
  const at = stranger(served.plan.shards[0]?.endpoints[0] ?? '', over.signal, stage);
  await Promise.race([at, sleep(stage.long ? 5 * SPAN_MS : SPAN_MS)]);
  over.abort();
  await at;
  await sleep(500);
  await within(GONE_MS, () => rssOf(pid) - before <= MOST_KEPT, 50);
  const kept = (rssOf(pid) - before) / MIB;
  await load.stop();
  const all = load.window();
  const grown = (most - before) / MIB;
  stage.expect(all.failed === 0, `${all.failed} of ${all.total} requests failed: ${failuresOf(all)}`);
  stage.expect(served.pid(0) === pid && served.events.every(({ what }) => what !== 'exited'), 'the shard ended');
  stage.expect(most - before <= MOST_GROWTH, `the shard grew by ${grown.toFixed(0)} MiB`);
  stage.expect(kept * MIB <= MOST_KEPT, `the shard keeps ${kept.toFixed(0)} MiB of it`);
  stage.figure('grownMiB', grown);
  stage.figure('keptMiB', kept);
  stage.saw(
    `${all.failed} of ${all.total} requests failed; the shard grew by ${Math.max(0, grown).toFixed(1)} MiB at most, and keeps ${Math.max(0, kept).toFixed(1)} MiB`,
  );
  checkPromise(stage, load);
}

const REQUIRED = 'no request of others fails; the shard goes on, and grows by 256 MiB at most, of which it keeps 64 MiB at most';

/** Messages of a stranger who speaks ZMTP, one after another. */
const messages =
  (next: (stage: Stage) => () => Buffer, burst = 20): Stranger =>
  async (endpoint, over, stage) => {
    const socket = new Dealer({ linger: 0, sendHighWaterMark: 1000 });
    stage.defer(() => socket.close());
    socket.connect(endpoint);
    const message = next(stage);
    while (!over.aborted) {
      for (let count = 0; count < burst; count++) await socket.send(message());
      await sleep(5);
    }
    socket.close();
  };

const emptyBags = (table: number, bags: number): SparseBatch => ({
  segments: new Uint8Array(Uint32Array.of(table, 0, 1, bags, 0).buffer),
  indexBytes: 4,
  indices: new Uint8Array(0),
  offsets: new Uint8Array((bags + 1) * 4),
  weights: null,
});
const malformed: Case = {
  name: 'malformed-messages',
  does: 'a stranger sends a shard 4000 messages a second: random bytes, and sound ones that are cut and changed',
  required: REQUIRED,
  run: (stage) =>
    beside(
      stage,
      messages((stage) => {
        const next = random(stage.seed);
        const sound = [
          questionOf(stage)(7, 2),
          encodeClientMessage({ kind: 'ping', id: 1, sentAtMs: 1 }),
          encodeClientMessage({ kind: 'stats', id: 2 }),
        ];
        return () => {
          if (next() < 0.2) return Buffer.from(Array.from({ length: Math.floor(next() * 300) }, () => Math.floor(next() * 256)));
          const bytes = Buffer.from(sound[Math.floor(next() * sound.length)] as Buffer);
          for (let flips = 0; flips < 4; flips++) bytes[Math.floor(next() * bytes.length)] = Math.floor(next() * 256);
          return next() < 0.5 ? bytes : bytes.subarray(0, Math.floor(next() * bytes.length));
        };
      }),
    ),
};

const deep: Case = {
  name: 'deep-messages',
  does: 'a stranger sends a shard 200 messages a second of 100,000 nested arrays or maps',
  required: REQUIRED,
  run: (stage) =>
    beside(
      stage,
      messages(() => {
        const arrays = Buffer.concat([Buffer.from('9304a4706f6f6c', 'hex'), Buffer.alloc(100_000, 0x91)]);
        const maps = Buffer.concat([Buffer.from('9304a4706f6f6c', 'hex'), Buffer.from('81a161'.repeat(33_000), 'hex')]);
        let count = 0;
        return () => (count++ % 2 === 0 ? arrays : maps);
      }, 1),
    ),
};

/** Writes the same bytes again and again, on a new connection when the shard has closed the last. */
const endless =
  (open: (endpoint: string) => Promise<Socket>, first: readonly Buffer[], then: Buffer): Stranger =>
  async (endpoint, over) => {
    while (!over.aborted) {
      const socket = await open(endpoint).catch(() => null);
      await sleep(5);
      if (socket === null) continue;
      for (const bytes of first) await written(socket, bytes);
      while (!over.aborted && !socket.destroyed) {
        await written(socket, then);
        await sleep(0);
      }
      socket.destroy();
    }
  };

const oversized: Case = {
  name: 'oversized-messages',
  does: 'strangers announce frames of 1 TiB and of 2^63 bytes, and send them as fast as they are read',
  required: REQUIRED,
  run: (stage) =>
    beside(stage, async (endpoint, over, at) => {
      const chunk = Buffer.alloc(MIB, 1);
      await Promise.all([2n ** 40n, 2n ** 63n].map((length) => endless(greetedConnection, [frameHead(length)], chunk)(endpoint, over, at)));
    }),
};

const multipart: Case = {
  name: 'endless-multipart',
  does: 'a stranger sends a message that has no end, in frames of 1 MiB, each of which announces more',
  required: REQUIRED,
  run: (stage) => beside(stage, endless(greetedConnection, [], Buffer.concat([frameHead(MIB, { more: true }), Buffer.alloc(MIB, 1)]))),
};

const GARBAGE = [
  'GET / HTTP/1.1\r\nHost: x\r\n\r\n',
  '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',
  '\x00'.repeat(4096),
  '\xff'.repeat(64),
  'EHLO x\r\n',
];

const notZmtp: Case = {
  name: 'not-zmtp',
  does: 'strangers that speak HTTP, TLS or nothing known connect, 200 a second, and write it without an end',
  required: REQUIRED,
  run: (stage) =>
    beside(stage, async (endpoint, over) => {
      const open: Socket[] = [];
      for (let count = 0; !over.aborted; count++) {
        const socket = await rawConnection(endpoint).catch(() => null);
        if (socket === null) continue;
        socket.write(Buffer.from(GARBAGE[count % GARBAGE.length] as string, 'latin1'));
        open.push(socket);
        if (open.length > 50) open.shift()?.destroy();
        await sleep(5);
      }
      for (const socket of open) socket.destroy();
    }),
};

const silent: Case = {
  name: 'silent-peers',
  does: '300 strangers connect and say nothing, half of them after the greeting',
  required: `${REQUIRED}; those that did not greet are gone after the 2 s that a handshake may take`,
  async run(stage) {
    await beside(stage, async (endpoint, over) => {
      const mute = await Promise.all(Array.from({ length: 150 }, () => rawConnection(endpoint)));
      const greeted = await Promise.all(Array.from({ length: 150 }, () => greetedConnection(endpoint)));
      // What nobody reads would hide that the other side closed.
      for (const socket of [...mute, ...greeted]) socket.resume();
      const left = (): number => mute.filter(({ destroyed }) => !destroyed).length;
      await within(GONE_MS, () => left() === 0, 50);
      stage.expect(left() === 0, `${left()} of 150 connections without a greeting are still open after ${GONE_MS} ms`);
      if (!over.aborted) await sleep(100);
      for (const socket of [...mute, ...greeted]) socket.destroy();
    });
  },
};

const unread: Case = {
  name: 'unread-answers',
  does: 'a stranger asks for answers of 1 MB as fast as it can, and reads none of them',
  required: REQUIRED,
  run: (stage) =>
    beside(stage, async (endpoint, over) => {
      const question = questionOf(stage);
      const socket = await greetedConnection(endpoint);
      socket.pause();
      for (let id = 1; !over.aborted && !socket.destroyed; id++) {
        await Promise.race([written(socket, frame(question(id, 20_000))), sleep(200)]);
        if (id % 10 === 0) await sleep(1);
      }
      socket.destroy();
    }),
};

const expensive: Case = {
  name: 'costly-messages',
  does: 'a stranger asks for answers that take 32 times the bytes of their question (empty bags), 100 at a time, and reads them',
  required: REQUIRED,
  run: (stage) =>
    beside(stage, async (endpoint, over) => {
      const question = questionOf(stage);
      const socket = await greetedConnection(endpoint);
      socket.resume();
      for (let id = 1; !over.aborted && !socket.destroyed; id++) {
        await written(socket, frame(question(id, 100_000)));
        if (id % 100 === 0) await sleep(200);
      }
      socket.destroy();
    }),
};

const noDescriptors: Case = {
  name: 'descriptor-limit',
  does: 'shards that may open 128 files; 300 strangers keep connections to one of them open for 2 s',
  required: `${REQUIRED}; connections are refused, and the process does not abort`,
  needs: ['root'],
  async run(stage) {
    const limited = { address: '127.0.0.1', command: ['prlimit', '--nofile=128:128', '--'], adopt: () => undefined };
    const hosts = { addressed: true, host: () => limited, close: async () => undefined };
    const cluster = await ChaosCluster.start(stage, { hosts });
    await beside(
      stage,
      async (endpoint, over) => {
        const open: Socket[] = [];
        for (let count = 0; count < 300 && !over.aborted; count++)
          await rawConnection(endpoint).then(
            (socket) => open.push(socket),
            () => undefined,
          );
        if (!over.aborted) await sleep(SPAN_MS);
        for (const socket of open) socket.destroy();
      },
      cluster,
    );
  },
};

export const STRANGERS: readonly Case[] = [malformed, deep, oversized, multipart, notZmtp, silent, unread, expensive, noDescriptors];
