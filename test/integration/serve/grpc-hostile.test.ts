import { once } from 'node:events';
import { rm } from 'node:fs/promises';
import { type ClientHttp2Session, type ClientHttp2Stream, connect as connectHttp2 } from 'node:http2';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { create, toBinary } from '@bufbuild/protobuf';
import { type ServiceError, status as Status } from '@grpc/grpc-js';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { openLocal, type Predictor } from '../../../src/index.js';
import { GRPCInferenceService, ModelInferRequestSchema } from '../../../src/serve/grpc/proto/open_inference_pb.js';
import { type GrpcOptions, GrpcServer } from '../../../src/serve/grpc/server.js';
import { Repository } from '../../../src/serve/repository.js';
import { Serving } from '../../../src/serve/serving.js';
import { DENSE, random, type SmallModel, smallRequest, writeSmallModel } from '../../reference/small-model.js';
import { GrpcClient, inferRequest, inputsOf } from './grpc-client.js';

const { method } = GRPCInferenceService;
const INFER = `/${GRPCInferenceService.typeName}/ModelInfer`;

let model: SmallModel;
let predictor: Predictor;
let serving: Serving;
let valid: Buffer;
const closing: (() => unknown)[] = [];

beforeAll(async () => {
  model = await writeSmallModel(17);
  predictor = await openLocal(model.dir);
  const borrowed = {
    ...predictor,
    model: predictor.model,
    predict: predictor.predict.bind(predictor),
    readiness: () => predictor.readiness(),
    close: async () => undefined,
  } as Predictor;
  const repository = new Repository(async () => [{ name: 'small', version: '1', open: async () => borrowed }]);
  await repository.open();
  serving = new Serving(repository, { repositoryControl: false });
  const request = inferRequest(inputsOf(smallRequest(random(3), 3), DENSE), 'mixed', { id: 'x', outputs: [{ name: 'scores' }] });
  valid = Buffer.from(toBinary(ModelInferRequestSchema, create(ModelInferRequestSchema, request)));
});
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});
afterAll(async () => {
  await predictor.close();
  await rm(model.dir, { recursive: true });
});

async function served(options: Partial<GrpcOptions> = {}): Promise<{ server: GrpcServer; client: GrpcClient; address: string }> {
  const server = await GrpcServer.listen(serving, { host: '127.0.0.1', port: 0, maxBody: 2 ** 26, maxConnections: 100, ...options });
  const address = `127.0.0.1:${server.port}`;
  const client = new GrpcClient(address);
  closing.push(
    () => server.close(),
    () => client.close(),
  );
  return { server, client, address };
}

const statusOf = (call: Promise<unknown>): Promise<{ code: string; details: string }> =>
  call.then(
    () => ({ code: 'OK', details: '' }),
    ({ code, details }: ServiceError) => ({ code: Status[code] as string, details }),
  );

/** A message with its prefix. */
function framed(bytes: Uint8Array, compressed = false, length = bytes.length): Buffer {
  const prefix = Buffer.alloc(5);
  prefix[0] = compressed ? 1 : 0;
  prefix.writeUInt32BE(length, 1);
  return Buffer.concat([prefix, bytes]);
}

/** Calls without a client library, which may be left within a message. */
class RawCalls {
  readonly session: ClientHttp2Session;

  constructor(address: string) {
    this.session = connectHttp2(`http://${address}`);
    this.session.on('error', () => undefined);
    closing.push(() => this.session.destroy());
  }

  begin(headers: Record<string, string> = {}): ClientHttp2Stream {
    const stream = this.session.request({
      ':method': 'POST',
      ':path': INFER,
      'content-type': 'application/grpc',
      te: 'trailers',
      ...headers,
    });
    stream.on('error', () => undefined);
    return stream;
  }
}

/** The grpc-status and message that a stream ends with. */
async function endOf(stream: ClientHttp2Stream): Promise<{ code: string; message: string }> {
  const headers = await new Promise<Record<string, unknown>>((resolve) => {
    stream.on('response', (given) => {
      if (given['grpc-status'] !== undefined) resolve(given);
    });
    stream.on('trailers', resolve);
    stream.resume();
  });
  return { code: Status[Number(headers['grpc-status'])] as string, message: decodeURIComponent(String(headers['grpc-message'])) };
}

test('messages that are changed anywhere get an answer or a typed status, and the server goes on', async () => {
  const { client } = await served();
  const change = fc.record({ at: fc.nat(valid.length - 1), byte: fc.nat(255), remove: fc.nat(2), insert: fc.nat(2) });
  const seen = new Set<string>();
  await fc.assert(
    fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 3 }), async (changes) => {
      let bytes = valid;
      for (const { at, byte, remove, insert } of changes)
        bytes = Buffer.concat([bytes.subarray(0, at), Buffer.alloc(insert, byte), bytes.subarray(at + remove)]);
      const { code } = await statusOf(client.send(INFER, bytes));
      expect(['OK', 'INVALID_ARGUMENT', 'NOT_FOUND', 'UNIMPLEMENTED']).toContain(code);
      seen.add(code);
    }),
    { numRuns: Number(process.env['TERABAG_FUZZ_RUNS'] ?? 400) },
  );
  expect(seen).toContain('INVALID_ARGUMENT');
  expect((await statusOf(client.send(INFER, valid))).code).toBe('OK');
});

test('streams of bytes that are no messages end with a status or a reset', async () => {
  const { client, address } = await served();
  const calls = new RawCalls(address);
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.uint8Array({ minLength: 1, maxLength: 40 }), { minLength: 1, maxLength: 4 }),
      fc.constantFrom('gzip', 'identity', 'other'),
      async (chunks, encoding) => {
        const stream = calls.begin({ 'grpc-encoding': encoding });
        const closed = once(stream, 'close');
        for (const chunk of chunks) stream.write(chunk);
        stream.end();
        stream.resume();
        // A message of which the rest never comes gets its status once the client has ended.
        await Promise.race([closed, sleep(50)]);
        stream.close();
        await closed;
      },
    ),
    { numRuns: 150 },
  );
  expect((await statusOf(client.send(INFER, valid))).code).toBe('OK');
});

test('bytes that are no HTTP/2 do not disturb others', async () => {
  const { client, address } = await served();
  const [host, port] = address.split(':') as [string, string];
  const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
  const settings = Buffer.from('000000040000000000', 'hex');
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(Buffer.alloc(0), preface, Buffer.concat([preface, settings]), Buffer.from('GET / HTTP/1.1\r\n\r\n')),
      fc.uint8Array({ maxLength: 300 }),
      async (start, rest) => {
        const socket = connect(Number(port), host);
        socket.on('error', () => undefined);
        await once(socket, 'connect');
        socket.end(Buffer.concat([start, rest]));
        socket.resume();
        await Promise.race([once(socket, 'close'), sleep(30)]);
        socket.destroy();
      },
    ),
    { numRuns: 150 },
  );
  expect((await statusOf(client.send(INFER, valid))).code).toBe('OK');
});

test('what messages hold is limited, and given back however their calls end', async () => {
  const { client, address } = await served({ maxHeld: 4 * 2 ** 20, maxBody: 2 ** 20 });
  const calls = new RawCalls(address);
  const part = framed(Buffer.alloc(900_000), false, 2 ** 20);
  const begin = async (): Promise<ClientHttp2Stream> => {
    const stream = calls.begin();
    await new Promise((resolve) => stream.write(part, resolve));
    return stream;
  };
  for (let round = 0; round < 3; round++) {
    const streams = await Promise.all([begin(), begin(), begin(), begin()]);
    // The messages that are not whole hold 3.6 MB, once they are there.
    const large = Buffer.alloc(800_000);
    await expect
      .poll(() => statusOf(client.send(INFER, large)), { timeout: 10_000 })
      .toEqual({
        code: 'UNAVAILABLE',
        details: expect.stringMatching(/messages of requests hold too many bytes: \d+ of 4194304/),
      });
    // The one that came too late is cut off.
    const fifth = calls.begin();
    const end = endOf(fifth);
    const closed = once(fifth, 'close');
    fifth.write(part);
    expect(await end).toMatchObject({ code: 'UNAVAILABLE' });
    await closed;
    // Some go away, others end as they should.
    for (const [at, stream] of streams.entries()) {
      if (at % 2 === 0) stream.close(8);
      else {
        const answered = endOf(stream);
        stream.end(Buffer.alloc(2 ** 20 - 900_000));
        expect(await answered).toMatchObject({ code: 'INVALID_ARGUMENT' });
      }
    }
    // All of it can be held again.
    const again = async () => (await Promise.all([1, 2, 3, 4].map(() => statusOf(client.send(INFER, large))))).map(({ code }) => code);
    await expect.poll(again, { timeout: 10_000 }).toEqual(new Array(4).fill('INVALID_ARGUMENT'));
  }
});

test('a small message that becomes a large one is held as such', async () => {
  const { address, client } = await served({ maxHeld: 4 * 2 ** 20, maxBody: 2 ** 20 });
  const calls = new RawCalls(address);
  const begun = calls.begin();
  await new Promise((resolve) => begun.write(framed(Buffer.alloc(900_000), false, 2 ** 20), resolve));
  const bomb = framed(gzipSync(Buffer.alloc(2 ** 20 - 1)), true);
  const many = Array.from({ length: 40 }, () => {
    const stream = calls.begin({ 'grpc-encoding': 'gzip' });
    const end = endOf(stream);
    stream.end(bomb);
    return end;
  });
  const codes = (await Promise.all(many)).map(({ code }) => code);
  expect(new Set(codes)).toEqual(new Set(['INVALID_ARGUMENT', 'UNAVAILABLE']));
  begun.close();
  const large = async () => (await statusOf(client.send(INFER, Buffer.alloc(800_000)))).code;
  await expect.poll(large, { timeout: 10_000 }).toBe('INVALID_ARGUMENT');
});

test('a message that does not become whole ends its call', async () => {
  const { address } = await served({ wholeMs: 200 });
  const calls = new RawCalls(address);
  const slow = calls.begin();
  const end = endOf(slow);
  slow.write(framed(Buffer.alloc(10), false, 20));
  expect(await end).toEqual({ code: 'DEADLINE_EXCEEDED', message: 'the message was not whole after 0.2 s' });
  await once(slow, 'close');
  // One that has not begun may wait.
  const idle = calls.begin();
  await sleep(400);
  const answer = endOf(idle);
  idle.end(framed(valid));
  expect(await answer).toMatchObject({ code: 'OK' });
});

test('connections beyond the limit are refused; those within it go on', async () => {
  const { address, client } = await served({ maxConnections: 3 });
  await client.call(method.serverLive, {});
  const [host, port] = address.split(':') as [string, string];
  const sockets: Socket[] = [];
  for (let n = 0; n < 5; n++) {
    const socket = connect(Number(port), host).on('error', () => undefined);
    sockets.push(socket);
    await once(socket, 'connect');
    socket.resume();
  }
  await sleep(100);
  expect(sockets.filter(({ destroyed }) => !destroyed).length).toBe(2);
  expect((await client.call(method.serverLive, {})).live).toBe(true);
  for (const socket of sockets) socket.destroy();
});

test('clients that send nothing more, or read nothing, do not keep a server from closing', async () => {
  const { server, address, client } = await served();
  await client.call(method.serverLive, {});
  const calls = new RawCalls(address);
  const begun = calls.begin();
  await new Promise((resolve) => begun.write(framed(Buffer.alloc(10), false, 20), resolve));
  const [host, port] = address.split(':') as [string, string];
  const silent = connect(Number(port), host).on('error', () => undefined);
  await once(silent, 'connect');
  const startedAt = performance.now();
  await server.close();
  expect(performance.now() - startedAt).toBeLessThan(3000);
});
