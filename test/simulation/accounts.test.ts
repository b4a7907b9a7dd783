import { expect, test } from 'vitest';
import type { SparseBatch } from '../../src/engine/sparse-batch.js';
import { decodeClientMessage, encodeClientMessage } from '../../src/rpc/codec.js';
import { messageBuffers } from '../../src/rpc/transport/buffer-pool.js';
import { SERVED, STAMP } from '../reference/messages.js';
import { Accounts } from './accounts.js';
import type { Connection } from './network.js';
import { batchOf } from './reference.js';
import type { Replica } from './replica.js';
import { Scheduler } from './scheduler.js';
import { Trace } from './trace.js';
import { Violations } from './violations.js';

/** A shard that has one request twice, from two connections of main, with the accounts of what it does with them. */
function askedTwice() {
  const violations = new Violations(() => 0);
  const trace = new Trace(new Scheduler(), false);
  const process = { name: 'shard', time: 0, globalAt: (at: number) => at, lateBy: () => 0 };
  const accounts = new Accounts({
    ...{ maxInFlight: 10, version: SERVED, stamp: STAMP, shards: 1, violations, trace, now: () => 0, main: () => process as never },
    ...{ asked: () => 1, resent: () => 0, deadlineOf: () => 100, clientOf: () => 0 },
  });
  const shard = { process, server: { counts: { inFlight: 2 } } } as unknown as Replica;
  const batch = batchOf([{ table: 0, bags: [[7]] }]);
  const connections = [1, 2].map((number) => ({ number, server: { process } }) as unknown as Connection);
  const receive = (connection: Connection, message: Uint8Array): SparseBatch | null => {
    const { bytes } = messageBuffers.take(message.byteLength);
    bytes.set(message);
    accounts.serverReceived(connection, message, bytes.buffer);
    const decoded = decodeClientMessage(bytes);
    return decoded.kind === 'pool' ? decoded.batch : null;
  };
  const read = connections.map((connection, at) =>
    receive(connection, encodeClientMessage({ kind: 'pool', id: at, stamp: STAMP, sentAtMs: 0, remainingMs: 100, batch, timed: false })),
  ) as [SparseBatch, SparseBatch];
  const cancel = (at: number): unknown => receive(connections[at] as Connection, encodeClientMessage({ kind: 'cancel', id: at }));
  return { read, cancel, begins: (batch: SparseBatch) => accounts.begins(shard, batch), violations };
}

test.each([0, 1])('of two equal requests, a shard begins with the one that is not cancelled: the other is %i', (cancelled) => {
  const { read, cancel, begins, violations } = askedTwice();
  cancel(cancelled);
  begins(read[1 - cancelled] as SparseBatch);
  expect(violations.first).toBeNull();
  begins(read[cancelled] as SparseBatch);
  expect(violations.first).toMatchObject({ invariant: 'cancelled' });
});

test('a shard begins with each of two equal requests once', () => {
  const { read, begins, violations } = askedTwice();
  for (const batch of read) begins(batch);
  expect(violations.first).toBeNull();
  begins(read[0]);
  expect(violations.first).toMatchObject({ invariant: 'cancelled' });
});
