import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import type { NativeSocket } from '../../src/engine/native.js';
import { SparseEngine } from '../../src/engine/sparse-engine.js';
import { encodeClientMessage } from '../../src/rpc/codec.js';
import { connectNative, listenNative } from '../../src/rpc/transport/native-sockets.js';
// The addon uses the libzmq that it loads.
import '../../src/rpc/transport/zeromq.js';
import type { ClientTransport } from '../../src/rpc/transport/transport.js';
import { STAMP } from '../reference/messages.js';

/** What receive says of a message that the service has answered. */
const ANSWERED = -2;
const [FLOOD, MODEST] = [2000, 20];
const dir = mkdtempSync(join(tmpdir(), 'fairness-'));
afterAll(() => rmSync(dir, { recursive: true }));
const block = (ms: number): unknown => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
const bytesOf = (values: readonly number[]): Uint8Array => new Uint8Array(Uint32Array.from(values).buffer);

test.skipIf(process.platform !== 'linux')(
  'native code answers peers in turn: one that floods makes another wait for one answer each',
  async () => {
    const path = join(dir, 'table');
    writeFileSync(path, new Uint8Array(16));
    const engine = new SparseEngine([
      { name: 'ids', table: 0, part: 0, parts: 1, path, byteOffset: 0, rows: 2, dim: 2, firstRow: 0, rowStep: 1, format: 'fp32' },
    ]);
    let native: NativeSocket | null = null;
    const server = listenNative('tcp://127.0.0.1:*', (_, message) => message.release());
    server.serve({
      serveOn: (socket) => {
        native = socket;
        engine.serveOn(socket, STAMP);
      },
    });
    const connected = async (): Promise<ClientTransport> => {
      let up = (): void => undefined;
      const isUp = new Promise<void>((resolve) => (up = resolve));
      const ignored = (): void => undefined;
      const client = connectNative(server.endpoint, { up, down: ignored, unreachable: ignored, message: (message) => message.release() });
      await isUp;
      return client;
    };
    const [greedy, modest] = [await connected(), await connected()];
    const ask = (client: ClientTransport, id: number): boolean =>
      client.send(
        encodeClientMessage({
          ...{ kind: 'pool', id, stamp: STAMP, sentAtMs: performance.now(), remainingMs: 60_000, timed: false },
          batch: {
            ...{ segments: bytesOf([0, 0, 1, 1, 0]), indexBytes: 4, indices: bytesOf([1]), offsets: bytesOf([0, 1]), weights: null },
          },
        }),
      );
    try {
      for (let id = 0; id < FLOOD; id++) expect(ask(greedy, id)).toBe(true);
      // All of it lies in the socket, and this event loop has read nothing, when the other one asks.
      block(300);
      for (let id = 0; id < MODEST; id++) expect(ask(modest, id)).toBe(true);
      block(300);
      const socket = native as unknown as NativeSocket;
      const answered: string[] = [];
      while (socket.receive() === ANSWERED) answered.push(socket.peer());
      expect(answered).toHaveLength(FLOOD + MODEST);
      const [first] = answered;
      const others = answered.flatMap((peer, at) => (peer === first ? [] : [at]));
      const modestAt = others.length === MODEST ? others : answered.flatMap((peer, at) => (peer === first ? [at] : []));
      expect(modestAt).toHaveLength(MODEST);
      expect(modestAt.at(-1)).toBeLessThanOrEqual(2 * MODEST);
    } finally {
      for (const each of [greedy, modest, server]) await each.close();
      engine.close();
    }
  },
);
