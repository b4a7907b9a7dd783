import { rm } from 'node:fs/promises';
import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Dealer, Router } from 'zeromq';
import { kernelFingerprint } from '../../src/engine/kernels.js';
import type { SparseBatch } from '../../src/engine/sparse-batch.js';
import { type Cluster, connect, launchCluster, type Plan, type Predictor, TerabagError } from '../../src/index.js';
import { readModelSpec } from '../../src/model/bundle.js';
import { servedVersionOf } from '../../src/plan/file/plan.js';
import { decodeClientMessage, decodeShardMessage, encodeClientMessage } from '../../src/rpc/codec.js';
import { type ClientMessage, type ShardMessage, WIRE_VERSION } from '../../src/rpc/messages.js';
import { type ServedVersion, stampOf } from '../../src/rpc/version.js';
import { encodeShardMessage, pooledAnswer } from '../reference/messages.js';
import { capacityPlan, planBySpec } from '../reference/plans.js';
import { settlesWithin } from '../reference/settles.js';
import { DIM, ROWS, random, referenceScores, type SmallModel, smallRequest, writeSmallModel } from '../reference/small-model.js';

let model: SmallModel;
let plan: Plan;
let version: ServedVersion;
let stamp: Uint8Array;
let cluster: Cluster;
let predictor: Predictor;
const exits: string[] = [];

beforeAll(async () => {
  model = await writeSmallModel(41);
  const spec = await readModelSpec(model.dir);
  plan = capacityPlan(spec, 1);
  version = servedVersionOf(plan);
  stamp = stampOf(version);
  // Silent, since it warns of every malformed message; without a restart, so that a crash cannot hide.
  cluster = await launchCluster(plan, {
    bundle: model.dir,
    ephemeralPorts: true,
    logLevel: 'silent',
    restart: false,
    onEvent: ({ what, detail }) => what === 'exited' && exits.push(detail),
  });
  predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle: model.dir });
});
afterAll(async () => {
  await predictor?.close();
  await cluster?.stop();
  await rm(model.dir, { recursive: true });
});

async function expectServing(): Promise<void> {
  const request = smallRequest(random(3), 4);
  const { scores } = await predictor.predict(request, { deadlineMs: 10_000 });
  const expected = referenceScores(model, request, 4);
  scores.forEach((score, item) => expect(Math.abs(score - (expected[item] as number))).toBeLessThan(1e-5));
  expect(exits).toEqual([]);
}

/** A main shard of our own: sends any bytes, and hands out what comes back. */
class RawClient {
  readonly socket = new Dealer({ linger: 0, sendTimeout: 5000, receiveTimeout: 5000 });
  constructor(endpoint: string) {
    this.socket.connect(endpoint);
  }
  send(...frames: Uint8Array[]): Promise<void> {
    return this.socket.send(frames);
  }
  async answer(): Promise<ShardMessage> {
    const [bytes] = await this.socket.receive();
    return decodeShardMessage(bytes as Buffer);
  }
  /** The next answer is the pong of this ping: nothing before it was answered, and the shard is alive. */
  async expectNothingBut(id: number): Promise<void> {
    await this.send(encodeClientMessage({ kind: 'ping', sentAtMs: performance.now(), id }));
    expect(await this.answer()).toEqual({ kind: 'pong', id, stamp: Buffer.from(stamp), state: 'ready', inFlight: 0 });
  }
}

interface Tensors {
  segments: number[];
  indexBytes: 4 | 8;
  indices: number[];
  offsets: number[];
  weights: number[] | null;
}
const bytesOf = (array: ArrayBufferView): Uint8Array => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
const batchOf = ({ segments, indexBytes, indices, offsets, weights }: Tensors): SparseBatch => ({
  segments: bytesOf(Uint32Array.from(segments)),
  indexBytes,
  indices: bytesOf(indexBytes === 4 ? Int32Array.from(indices) : BigInt64Array.from(indices, BigInt)),
  offsets: bytesOf(Uint32Array.from(offsets)),
  weights: weights === null ? null : bytesOf(Float32Array.from(weights)),
});

const WEIGHTED = 2;
const sound = fc
  .array(fc.record({ table: fc.nat(2), lengths: fc.array(fc.nat(4), { minLength: 1, maxLength: 4 }), weighted: fc.boolean() }), {
    minLength: 1,
    maxLength: 4,
  })
  .chain((parts) =>
    fc.constantFrom<4 | 8>(4, 8).map((indexBytes): Tensors => {
      const tensors: Tensors = { segments: [], indexBytes, indices: [], offsets: [0], weights: [] };
      for (const { table, lengths, weighted } of parts) {
        tensors.segments.push(table, 0, 1, lengths.length, weighted ? WEIGHTED : 0);
        for (const length of lengths) {
          for (let i = 0; i < length; i++) {
            tensors.indices.push((i * 5) % (ROWS[table] as number));
            if (weighted) tensors.weights?.push(1 + i);
          }
          tensors.offsets.push(tensors.indices.length);
        }
      }
      return tensors;
    }),
  );

const uint32 = fc.oneof(fc.constantFrom(0, 1, 2, 3, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1), fc.nat(100));
/** One fault that cannot be harmless, and the codes that may name it. */
const faults: fc.Arbitrary<(tensors: Tensors) => { batch: SparseBatch; codes: string[] }> = fc.oneof(
  // A table, part or number of parts that the shard does not hold, flags that do not exist.
  fc.tuple(fc.constantFrom(0, 1, 2, 4), fc.constantFrom(3, 4, 77, 2 ** 31, 2 ** 32 - 1)).map(([field, value]) => (tensors: Tensors) => {
    const segments = [...tensors.segments];
    segments[field] = field === 4 ? value | 32 : value;
    return { batch: batchOf({ ...tensors, segments }), codes: ['bad_message'] };
  }),
  // A rule that the table does not have.
  fc.constantFrom(1, 2, 255, 256, 32_767, 32_768, 65_535).map((rule) => (tensors: Tensors) => {
    const segments = [...tensors.segments];
    segments[4] = (segments[4] as number) + rule * 65_536;
    return { batch: batchOf({ ...tensors, segments }), codes: ['bad_message'] };
  }),
  // Another number of bags than offsets tell.
  fc.constantFrom(1, 7, 2 ** 31, 2 ** 32 - 20).map((more) => (tensors: Tensors) => {
    const segments = [...tensors.segments];
    segments[3] = (segments[3] as number) + more;
    return { batch: batchOf({ ...tensors, segments }), codes: ['bad_message'] };
  }),
  fc.tuple(fc.nat(1000), uint32).map(([at, value]) => (tensors: Tensors) => {
    const position = at % tensors.offsets.length;
    const after = tensors.offsets[position + 1] ?? tensors.indices.length;
    const offsets = [...tensors.offsets];
    // Between its neighbours an offset is sound unless it is the first or last.
    const inner = position > 0 && position + 1 < offsets.length;
    offsets[position] = inner ? (value > after ? value : after + 1 + (value % 50)) : value === offsets[position] ? value + 1 : value;
    // One that is too large lends a segment the next one's ids, whose table may be larger, before it is found.
    return {
      batch: batchOf({ ...tensors, offsets }),
      codes: inner ? ['bad_offsets', 'index_out_of_range', 'bad_message'] : ['bad_offsets'],
    };
  }),
  fc.tuple(fc.nat(1000), fc.constantFrom(-1, 200, 201, 2 ** 31 - 1, -(2 ** 31))).map(([at, value]) => (tensors: Tensors) => {
    const indices = tensors.indices.length > 0 ? [...tensors.indices] : [0];
    const offsets = tensors.indices.length > 0 ? tensors.offsets : [...tensors.offsets.slice(0, -1), 1];
    const weights = tensors.indices.length === 0 && tensors.segments.at(-1) === WEIGHTED ? [1] : tensors.weights;
    indices[at % indices.length] = value;
    return { batch: batchOf({ ...tensors, indices, offsets, weights }), codes: ['index_out_of_range'] };
  }),
  // Weights that are too many, or of odd length.
  fc.constantFrom(1, 3, 4, 4096).map((more) => (tensors: Tensors) => {
    const batch = batchOf(tensors);
    return { batch: { ...batch, weights: Buffer.concat([batch.weights as Uint8Array, Buffer.alloc(more)]) }, codes: ['bad_message'] };
  }),
  // Tensors with a partial entry.
  fc.constantFrom('segments', 'offsets', 'indices').map((field) => (tensors: Tensors) => {
    const batch = batchOf(tensors);
    return { batch: { ...batch, [field]: Buffer.concat([batch[field] as Uint8Array, Buffer.alloc(1)]) }, codes: ['bad_message'] };
  }),
);

test('a sound message with a broken batch gets a typed error with its id, and the next batch is pooled right', async () => {
  const client = new RawClient(cluster.shards[0]!.endpoint);
  let id = 1;
  const table = model.tables[0] as Float32Array;
  await fc.assert(
    fc.asyncProperty(sound, faults, async (tensors, breakIt) => {
      const { batch, codes } = breakIt(tensors);
      const broken = ++id;
      await client.send(
        encodeClientMessage({ kind: 'pool', stamp, sentAtMs: performance.now(), id: broken, remainingMs: 5000, batch, timed: false }),
      );
      const answer = await client.answer();
      expect(answer).toMatchObject({ kind: 'error', id: broken });
      expect(codes).toContain((answer as Extract<ShardMessage, { kind: 'error' }>).code);
      const right = batchOf({ segments: [0, 0, 1, 1, 0], indexBytes: 4, indices: [3], offsets: [0, 1], weights: null });
      await client.send(
        encodeClientMessage({ kind: 'pool', stamp, sentAtMs: performance.now(), id: ++id, remainingMs: 5000, batch: right, timed: false }),
      );
      const pooled = await client.answer();
      expect(pooled).toMatchObject({ kind: 'pooled', id });
      const { pooled: bytes } = pooled as Extract<ShardMessage, { kind: 'pooled' }>;
      expect(new Float32Array(Uint8Array.from(bytes).buffer)).toEqual(table.slice(3 * DIM, 4 * DIM));
    }),
    { numRuns: 400 },
  );
  client.socket.close();
  await expectServing();
});

test('requests that are answered where they are received get the vectors and stages of those that are not', async () => {
  const client = new RawClient(cluster.shards[0]!.endpoint);
  const small = batchOf({ segments: [0, 0, 1, 2, 0], indexBytes: 4, indices: [3, 1, 2], offsets: [0, 1, 3], weights: null });
  // Worth milliseconds: pooled on a thread, and answered by JavaScript.
  const many = Array.from({ length: 300_000 }, (_, i) => (i * 7) % (ROWS[0] as number));
  const large = batchOf({
    segments: [0, 0, 1, 2, 0, 0, 0, 1, 1, 0],
    indexBytes: 4,
    indices: [3, 1, 2, ...many],
    offsets: [0, 1, 3, many.length + 3],
    weights: null,
  });
  const ask = async (message: Extract<ClientMessage, { kind: 'pool' }>): Promise<Extract<ShardMessage, { kind: 'pooled' }>> => {
    await client.send(encodeClientMessage(message));
    const answer = await client.answer();
    expect(answer).toMatchObject({ kind: 'pooled', id: message.id });
    return answer as Extract<ShardMessage, { kind: 'pooled' }>;
  };
  const { pooled: expected } = await ask({
    kind: 'pool',
    stamp,
    sentAtMs: performance.now(),
    id: 1,
    remainingMs: 5000,
    batch: large,
    timed: false,
  });
  // Ids of every length in msgpack, so that the vectors are padded by every number of bytes.
  for (const id of [0, 127, 128, 255, 256, 65_535, 65_536, 2 ** 32 - 1, 2 ** 32, 2 ** 40 + 1, Number.MAX_SAFE_INTEGER]) {
    for (const [batch, timed, remainingMs] of [
      [small, true, 5000],
      [small, false, 70_000.5],
      [large, true, 5000],
    ] as const) {
      const { pooled, stages, serviceUs } = await ask({ kind: 'pool', stamp, sentAtMs: performance.now(), id, remainingMs, batch, timed });
      expect(
        Buffer.from(expected)
          .subarray(0, 2 * DIM * 4)
          .equals(Buffer.from(pooled).subarray(0, 2 * DIM * 4)),
      ).toBe(true);
      expect(stages === null).toBe(!timed);
      if (stages === null) continue;
      const [deserialize = 0, dispatch = 0, queue = 0, pool = 0, handBack = 0, , poolCpu = 0] = Array.from(stages);
      // Where the addon has sockets, the small one is handed to nobody.
      if (process.platform === 'linux') expect(queue + handBack > 0).toBe(batch === large);
      expect(pool).toBeGreaterThan(0);
      expect(poolCpu).toBeGreaterThan(0);
      expect(Math.abs(deserialize + dispatch + queue + pool + handBack - serviceUs)).toBeLessThan(2 + serviceUs / 10);
    }
  }
  client.socket.close();
});

test('an error of an id names table, bag and position through the wire', async () => {
  const client = new RawClient(cluster.shards[0]!.endpoint);
  const batch = batchOf({
    segments: [1, 0, 1, 1, 0, 0, 0, 1, 2, 0],
    indexBytes: 8,
    indices: [6, 1, 2, 50],
    offsets: [0, 1, 2, 4],
    weights: null,
  });
  await client.send(
    encodeClientMessage({ kind: 'pool', stamp, sentAtMs: performance.now(), id: 9, remainingMs: 5000, batch, timed: false }),
  );
  expect(await client.answer()).toMatchObject({
    kind: 'error',
    id: 9,
    code: 'index_out_of_range',
    details: { table: 't0', bag: 1, position: 2, index: '50', rows: '50' },
  });
  client.socket.close();
});

test('an answer that would reserve gigabytes, and a request that is already late, are refused before work is done', async () => {
  const client = new RawClient(cluster.shards[0]!.endpoint);
  const segments = Array.from({ length: 40 }, () => [0, 0, 1, 2 ** 32 - 1, 0]).flat();
  const huge = batchOf({ segments, indexBytes: 4, indices: [], offsets: [0], weights: null });
  await client.send(
    encodeClientMessage({ kind: 'pool', stamp, sentAtMs: performance.now(), id: 1, remainingMs: 5000, batch: huge, timed: false }),
  );
  expect(await client.answer()).toMatchObject({ kind: 'error', id: 1, code: 'bad_message' });
  const right = batchOf({ segments: [0, 0, 1, 1, 0], indexBytes: 4, indices: [3], offsets: [0, 1], weights: null });
  await client.send(
    encodeClientMessage({ kind: 'pool', stamp, sentAtMs: performance.now(), id: 2, remainingMs: 0, batch: right, timed: false }),
  );
  expect(await client.answer()).toMatchObject({ kind: 'error', id: 2, code: 'deadline_exceeded' });
  client.socket.close();
});

test('arbitrary and mutated messages never crash a shard, and each is dropped or answered', async () => {
  const client = new RawClient(cluster.shards[0]!.endpoint);
  const valid: ClientMessage[] = [
    { kind: 'hello', sentAtMs: performance.now(), kernels: kernelFingerprint(), version },
    { kind: 'ping', sentAtMs: performance.now(), id: 5 },
    { kind: 'stats', id: 6 },
    {
      kind: 'pool',
      id: 7,
      stamp,
      sentAtMs: performance.now(),
      remainingMs: 1000,
      batch: batchOf({ segments: [2, 0, 1, 2, 2], indexBytes: 4, indices: [1, 2, 3], offsets: [0, 1, 3], weights: [1, 2, 3] }),
      timed: true,
    },
  ];
  const mutated = fc
    .record({
      message: fc.constantFrom(...valid),
      flips: fc.array(fc.tuple(fc.nat(10_000), fc.nat(255)), { minLength: 1, maxLength: 4 }),
      cut: fc.option(fc.nat(10_000)),
    })
    .map(({ message, flips, cut }) => {
      const bytes = Buffer.from(encodeClientMessage(message));
      for (const [at, value] of flips) bytes[at % bytes.length] = value;
      return cut === null ? bytes : bytes.subarray(0, cut % bytes.length);
    });
  // Arrays, strings, binaries and extensions whose length lies, also nested.
  const lying = fc
    .array(fc.constantFrom('dd01ffffff', 'dcffff', 'dfffffffff', 'c6ffffffff', 'dbffffffff', 'c9ffffffff72', 'd47241', '91', '81a161'), {
      minLength: 1,
      maxLength: 200,
    })
    .map((parts) => Buffer.from(`9301a4706f6f6c${parts.join('')}`, 'hex'));
  const anything = fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes));
  let sent = 0;
  let answers = 0;
  let pings = 2 ** 50;
  // What comes together may be answered in another order: a pong may overtake answers.
  const untilPong = async (): Promise<void> => {
    const id = ++pings;
    await client.send(encodeClientMessage({ kind: 'ping', sentAtMs: performance.now(), id }));
    for (let answer = await client.answer(); answer.kind !== 'pong' || answer.id !== id; answer = await client.answer()) answers++;
  };
  await fc.assert(
    fc.asyncProperty(fc.array(fc.oneof(mutated, lying, anything), { minLength: 1, maxLength: 8 }), async (messages) => {
      sent += messages.length;
      for (const bytes of messages) await client.send(bytes);
      await untilPong();
      expect(answers).toBeLessThanOrEqual(sent);
    }),
    { numRuns: 400 },
  );
  await sleep(200);
  await untilPong();
  await client.send(Buffer.alloc(0));
  await client.send(Buffer.alloc(1), Buffer.alloc(70_000), Buffer.alloc(0));
  await client.send(Buffer.alloc(8_000_000, 0x91));
  await client.expectNothingBut(2);
  client.socket.close();
  await expectServing();
});

test('bytes that are not of the protocol never crash a shard', async () => {
  const { port, hostname } = new URL(cluster.shards[0]!.endpoint.replace('tcp:', 'http:'));
  const greeting = Buffer.from(`ff00000000000000017f0300${Buffer.from('NULL').toString('hex')}${'00'.repeat(48)}`, 'hex');
  const next = random(99);
  const noise = (length: number): Buffer => Buffer.from(Array.from({ length }, () => Math.floor(next() * 256)));
  const starts = [
    Buffer.from('GET / HTTP/1.1\r\nHost: shard\r\n\r\n'),
    // Before the greeting, after it, and a frame of 2^63 bytes after a whole handshake.
    noise(100),
    Buffer.concat([greeting, noise(1000)]),
    Buffer.concat([greeting, Buffer.from('04190552454144590b536f636b65742d54797065000000064445414c4552', 'hex'), Buffer.from('02', 'hex')]),
    Buffer.concat([
      greeting,
      Buffer.from('041c0552454144590b536f636b65742d54797065000000064445414c4552', 'hex'),
      Buffer.from('027fffffffffffffff', 'hex'),
    ]),
    ...Array.from({ length: 20 }, () => Buffer.concat([greeting.subarray(0, 10 + Math.floor(next() * 54)), noise(200)])),
  ];
  await Promise.all(
    starts.map(
      (bytes) =>
        new Promise<void>((resolve) => {
          const socket = new Socket();
          socket.on('error', () => undefined);
          socket.on('close', () => resolve());
          socket.on('data', () => undefined);
          // Half a second is only how long the garbage may keep a connection; nothing is measured by it.
          socket.setTimeout(500, () => socket.destroy());
          socket.connect(Number(port), hostname, () => socket.write(bytes));
        }),
    ),
  );
  await expectServing();
});

/** A shard that says what the test wants. */
async function withFalseShard(
  answer: (message: ClientMessage, say: (...messages: Uint8Array[]) => Promise<void>) => Promise<void>,
  use: (falsePlan: Plan) => Promise<void>,
): Promise<void> {
  const router = new Router({ linger: 0 });
  await router.bind('tcp://127.0.0.1:*');
  const serving = (async () => {
    for await (const [peer, bytes] of router) {
      await answer(decodeClientMessage(bytes as Buffer), async (...messages) => {
        for (const message of messages) await router.send([peer as Buffer, message]);
      });
    }
  })();
  try {
    await use({ ...plan, shards: [{ name: 'shard-0', endpoints: [router.lastEndpoint as string] }] });
  } finally {
    router.close();
    await serving;
  }
}

const welcome = (): Buffer =>
  encodeShardMessage({ kind: 'welcome', kernels: kernelFingerprint(), shard: 'shard-0', version, state: 'ready' });

test('malformed and foreign answers are dropped and counted, and the request ends typed by its deadline', async () => {
  const garbage = [
    Buffer.alloc(0),
    Buffer.from('not msgpack'),
    Buffer.from('9301a4706f6f6cdd01ffffff', 'hex'),
    encodeClientMessage({ kind: 'ping', sentAtMs: performance.now(), id: 1 }),
    Buffer.from(encodeShardMessage({ kind: 'pong', id: 1, stamp, state: 'ready', inFlight: 0 })).fill(WIRE_VERSION + 1, 1, 2),
    // Passes as another kind of message, but has nothing that stats have.
    encodeShardMessage({ kind: 'stats', id: 3, stamp, stats: { shard: 1 } as never }),
  ];
  await withFalseShard(
    async (message, say) => {
      if (message.kind === 'hello') await say(welcome());
      if (message.kind !== 'pool') return;
      await say(
        ...garbage,
        encodeShardMessage(pooledAnswer({ id: message.id + 1000, stamp }, new Uint8Array(48))),
        encodeShardMessage({ kind: 'error', id: message.id + 1000, code: 'internal', message: 'foreign', details: {} }),
      );
    },
    async (falsePlan) => {
      const victim = await connect(falsePlan, { deadlineMs: 10_000, bundle: model.dir });
      const asked = victim.predict(smallRequest(random(1), 2), { deadlineMs: 300 });
      expect(await settlesWithin(300 + 100, asked)).toBe(true);
      await expect(asked).rejects.toMatchObject({
        code: 'deadline_exceeded',
        details: { shard: 'shard-0' },
      });
      expect(victim.stats()).toMatchObject({ malformed: garbage.length, unmatched: 2, inFlight: 0 });
      await victim.close();
    },
  );
});

test('answers of a wrong length, with an unknown code, or too late never become scores', async () => {
  const answers: ((id: number) => ShardMessage)[] = [
    (id) => pooledAnswer({ id, stamp }, new Uint8Array(0)),
    (id) => pooledAnswer({ id, stamp }, new Uint8Array(5 * DIM * 4 - 1)),
    (id) => pooledAnswer({ id, stamp }, new Uint8Array(5 * DIM * 4 + 4)),
    (id) => ({ ...pooledAnswer({ id, stamp }, new Uint8Array(5 * DIM * 4)), checksum: 1 }),
    (id) => pooledAnswer({ id, stamp: stampOf({ ...version, epoch: 7 }) }, new Uint8Array(5 * DIM * 4)),
    (id) => ({ kind: 'error', id, code: 'no such code', message: 'strange', details: {} }),
    (id) => ({ kind: 'error', id, code: 'overloaded', message: 'too much', details: { shard: 'another' } }),
  ];
  let turn = 0;
  const late: Uint8Array[] = [];
  await withFalseShard(
    async (message, say) => {
      if (message.kind === 'hello') await say(welcome());
      if (message.kind !== 'pool') return;
      const make = answers[turn++];
      if (make !== undefined) await say(encodeShardMessage(make(message.id)));
      else {
        await sleep(150);
        late.push(encodeShardMessage(pooledAnswer(message, new Uint8Array(5 * DIM * 4))));
        await say(late[0] as Uint8Array);
      }
    },
    async (falsePlan) => {
      const victim = await connect(falsePlan, { deadlineMs: 10_000, bundle: model.dir });
      const codes: string[] = [];
      for (let n = 0; n <= answers.length; n++) {
        // The last is answered after its deadline.
        const error = await victim.predict(smallRequest(random(1), 2), { deadlineMs: n === answers.length ? 50 : 2000 }).then(
          () => expect.fail('scores from a false answer'),
          (thrown: unknown) => thrown as TerabagError,
        );
        expect(error).toBeInstanceOf(TerabagError);
        codes.push(error.code);
      }
      expect(codes).toEqual([
        ...['bad_message', 'bad_message', 'bad_message', 'bad_message', 'version_skew'],
        ...['internal', 'overloaded', 'deadline_exceeded'],
      ]);
      await expect.poll(() => victim.stats()['unmatched']).toBe(1);
      await victim.close();
    },
  );
});

test('a shard of another name, of another model, or that never answers is refused at connect with the reason', async () => {
  const says = async (greeting: (() => Buffer) | null, expected: object): Promise<void> =>
    withFalseShard(
      async (message, say) => {
        if (message.kind === 'hello' && greeting !== null) await say(greeting());
      },
      (falsePlan) => expect(connect(falsePlan, { bundle: model.dir, readyMs: 400 })).rejects.toMatchObject(expected),
    );
  await says(
    () =>
      encodeShardMessage({
        kind: 'welcome',
        kernels: kernelFingerprint(),
        shard: 'shard-0',
        version: { ...version, modelHash: 'f'.repeat(64) },
        state: 'ready',
      }),
    {
      code: 'model_mismatch',
      details: { shard: 'shard-0' },
    },
  );
  await says(() => encodeShardMessage({ kind: 'welcome', kernels: kernelFingerprint(), shard: 'shard-7', version, state: 'ready' }), {
    code: 'model_mismatch',
  });
  await says(
    () =>
      encodeShardMessage({
        ...{ kind: 'welcome', kernels: kernelFingerprint(), shard: 'shard-0', version: { ...version, epoch: 7 }, state: 'ready' },
      }),
    { code: 'version_skew', message: expect.stringMatching(/epoch 7.*epoch 0/) },
  );
  await says(() => encodeShardMessage({ kind: 'welcome', kernels: kernelFingerprint(), shard: 'shard-0', version, state: 'draining' }), {
    code: 'shard_unavailable',
  });
  await says(null, { code: 'shard_unavailable', details: { shard: 'shard-0' } });
});

test('a shard whose first greeting was lost is greeted again', async () => {
  let greetings = 0;
  await withFalseShard(
    async (message, say) => {
      if (message.kind === 'hello' && ++greetings > 1) await say(welcome());
    },
    async (falsePlan) => {
      const patient = await connect(falsePlan, { deadlineMs: 10_000, bundle: model.dir });
      expect(greetings).toBeGreaterThan(1);
      await patient.close();
    },
  );
});

test('a plan with an endpoint that cannot be used is refused and leaves no connection behind', async () => {
  const [first] = cluster.plan.shards;
  const spec = await readModelSpec(model.dir);
  const planned = planBySpec('capacity-balanced', spec, { shards: 2 });
  // Not of a file: that would have been refused before.
  const two = {
    ...planned,
    shards: planned.shards.map((shard, at) => (at === 0 ? first! : { ...shard, endpoints: [`ipc:///${'long/'.repeat(60)}`] })),
  };
  const before = process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length;
  await expect(connect(two, { bundle: model.dir })).rejects.toMatchObject({
    code: 'bad_plan',
    details: { endpoint: `ipc:///${'long/'.repeat(60)}` },
  });
  expect(process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length).toBeLessThanOrEqual(before);
});
