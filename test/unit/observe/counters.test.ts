import { rm } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { openLocal } from '../../../src/index.js';
import { PREDICTOR_COUNTERS, RPC_COUNTERS, sumRpcCounts, TABLE_COUNTERS } from '../../../src/observe/counters.js';
import { random, smallRequest, writeSmallModel } from '../../reference/small-model.js';

test('the stats of a predictor have the numbers that the table describes, each as a property of its own', async () => {
  const model = await writeSmallModel(61);
  const local = await openLocal(model.dir, { deadlineMs: 10_000 });
  try {
    await local.predict(smallRequest(random(2), 3));
    await expect(local.predict({ dense: {}, sparse: {} })).rejects.toThrow();
    const stats = local.stats();
    const known = Object.keys(PREDICTOR_COUNTERS).filter((name) => !Object.hasOwn(TABLE_COUNTERS, name) || Object.hasOwn(stats, name));
    expect(Object.keys(stats).sort()).toEqual(known.sort());
    expect(stats).toMatchObject({ requests: 2, errors: 1, inFlight: 0, lingering: 0, sent: 0, lost: 0 });
    if (process.platform === 'linux') expect(stats.tableBytes).toBe(model.tables.reduce((sum, { byteLength }) => sum + byteLength, 0));
  } finally {
    await local.close();
    await rm(model.dir, { recursive: true });
  }
});

test('counts of several shards are added by name, and what else a shard counts is left out', () => {
  const names = Object.keys(RPC_COUNTERS);
  const counts = (first: number) => Object.fromEntries(names.map((name, at) => [name, first + at])) as ReturnType<typeof sumRpcCounts>;
  expect(sumRpcCounts([counts(1), { ...counts(10), other: 5 } as ReturnType<typeof counts>])).toEqual(
    Object.fromEntries(names.map((name, at) => [name, 11 + 2 * at])),
  );
  expect(sumRpcCounts([])).toEqual(Object.fromEntries(names.map((name) => [name, 0])));
});
