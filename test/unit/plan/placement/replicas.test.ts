import fc from 'fast-check';
import { expect, test } from 'vitest';
import { TerabagError } from '../../../../src/errors.js';
import type { Plan } from '../../../../src/plan/file/plan.js';
import { hostOf, placeReplicas, type ReplicaOptions } from '../../../../src/plan/placement/replicas.js';
import { specOf, table } from '../../../reference/specs.js';

/** A plan of shards that hold so many rows of 16 bytes each, one table a shard. */
function planOf(rows: readonly number[]): { plan: Plan; spec: ReturnType<typeof specOf> } {
  const spec = specOf(rows.map((count, at) => table(`t${at}`, count)));
  const plan: Plan = {
    ...{ terabagPlan: 1, strategy: 'by hand', model: { name: 'm', version: '1', hash: 'a'.repeat(64) } },
    shards: rows.map((_, at) => ({ name: `s${at}`, endpoints: [] })),
    tables: rows.map((_, at) => ({ table: `t${at}`, parts: [`s${at}`] })),
  };
  return { plan, spec };
}
const ROW_BYTES = 16;
const place = (rows: readonly number[], options: ReplicaOptions): string[][] => {
  const { plan, spec } = planOf(rows);
  return placeReplicas(plan, spec, options).shards.map(({ endpoints }) => endpoints);
};
const on = (...hosts: string[]): string[] => hosts.map((host, at) => `tcp://${host}:${7400 + at}`);

test('without endpoints, replicas are on loopback, those of a shard side by side', () => {
  expect(place([1, 1], { replicas: 2 })).toEqual([
    ['tcp://127.0.0.1:7400', 'tcp://127.0.0.1:7401'],
    ['tcp://127.0.0.1:7402', 'tcp://127.0.0.1:7403'],
  ]);
});

test('replicas of a shard are on hosts that differ, in the order of the endpoints', () => {
  expect(place([1, 1], { replicas: 2, endpoints: on('a', 'a', 'b', 'b') })).toEqual([
    ['tcp://a:7400', 'tcp://b:7402'],
    ['tcp://a:7401', 'tcp://b:7403'],
  ]);
  expect(place([1, 1], { endpoints: on('b', 'a') })).toEqual([['tcp://b:7400'], ['tcp://a:7401']]);
});

test('what has no host of its own is kept apart from nothing', () => {
  expect(['tcp://127.0.0.9:1', 'tcp://localhost:1', 'tcp://[::1]:1', 'ipc://x', 'srv://a.b', 'file:///x'].map(hostOf)).toEqual(
    Array(6).fill(null),
  );
  expect(['tcp://a.b:1', 'tcp://10.0.0.1:1', 'tcp://[fd00::1]:1'].map(hostOf)).toEqual(['a.b', '10.0.0.1', 'fd00::1']);
  expect(['tcp://LocalHost:1', 'tcp://[0:0::1]:1'].map(hostOf)).toEqual([null, null]);
});

test.each([
  ['tcp://a.b:1', 'tcp://A.b.:2', 'a.b'],
  ['tcp://[fd00::1]:1', 'tcp://[FD00:0::0001]:2', 'fd00::1'],
  ['tcp://[fe80::1%eth0]:1', 'tcp://[fe80:0::1%eth0]:2', 'fe80::1%eth0'],
])('a host that is spelled in two ways is one: %s and %s', (one, other, host) => {
  expect(() => place([1], { replicas: 2, endpoints: [one, other] })).toThrow(
    expect.objectContaining({ code: 'does_not_fit', details: expect.objectContaining({ value: host }) }),
  );
});

test('a host, or a zone, that has more endpoints than there are shards is refused with by how much', () => {
  const refused = (options: ReplicaOptions): unknown => {
    try {
      return place([1, 1], { replicas: 2, ...options });
    } catch (error) {
      return { ...(error as TerabagError).details, message: (error as Error).message };
    }
  };
  expect(refused({ endpoints: on('a', 'a', 'a', 'b') })).toEqual({
    ...{ field: 'endpoints', value: 'a', count: 3, room: 2, short: 1 },
    message: 'replicas cannot be kept apart: 3 of 4 endpoints are in host a, of which 2 shards can use 2, short by 1',
  });
  expect(refused({ endpoints: on('a', 'b', 'c', 'd'), spread: { zone: ['x', 'x', 'x', 'x'] } })).toEqual({
    ...{ field: 'spread.zone', value: 'x', count: 4, room: 2, short: 2 },
    message: 'replicas cannot be kept apart: 4 of 4 endpoints are in zone x, of which 2 shards can use 2, short by 2',
  });
});

test('replicas of several shards on one host add up to its limit; what does not fit says by how much, and large shards go where small ones are', () => {
  const endpoints = on('a', 'a', 'b', 'b');
  expect(() => place([3, 5], { replicas: 2, endpoints, hostLimitBytes: 7 * ROW_BYTES })).toThrow(
    expect.objectContaining({
      code: 'does_not_fit',
      message: 'replicas do not fit on a host: a would hold 128 bytes, there is room for 112, short by 16',
      details: { host: 'a', need: 128, room: 112 },
    }),
  );
  // Hosts of two replicas each, of shards of 6, 5, 2 and 1 rows: 7 or 8 fit only when a large one is beside a small one.
  const hosts = on('a', 'b', 'c', 'd', 'a', 'b', 'c', 'd');
  const placed = place([6, 5, 2, 1], { replicas: 2, endpoints: hosts, hostLimitBytes: 8 * ROW_BYTES });
  const held = new Map<string, number>();
  for (const [shard, given] of placed.entries())
    for (const endpoint of given)
      held.set(hostOf(endpoint) ?? '', (held.get(hostOf(endpoint) ?? '') ?? 0) + ([6, 5, 2, 1][shard] as number));
  expect(Math.max(...held.values())).toBeLessThanOrEqual(8);
});

test('a plan of fewer shards than there are endpoints for takes those that can be kept apart', () => {
  expect(place([1], { replicas: 2, endpoints: on('a', 'a', 'b', 'b') })).toEqual([['tcp://a:7400', 'tcp://b:7402']]);
});

test('replicas of hosts that lie in zones are placed exactly where that can be: each endpoint once, no host or zone twice for a shard, limits kept', () => {
  const scenario = fc
    .record({ shards: fc.integer({ min: 1, max: 5 }), replicas: fc.integer({ min: 1, max: 3 }), zones: fc.integer({ min: 1, max: 4 }) })
    .chain(({ shards, replicas, zones }) =>
      fc.record({
        rows: fc.array(fc.integer({ min: 1, max: 9 }), { minLength: shards, maxLength: shards }),
        hosts: fc.array(fc.integer({ min: 0, max: 7 }), { minLength: shards * replicas, maxLength: shards * replicas }),
        ...{
          replicas: fc.constant(replicas),
          zones: fc.constant(zones),
          limited: fc.option(fc.integer({ min: 5, max: 40 }), { nil: null }),
        },
      }),
    );
  let placements = 0;
  fc.assert(
    fc.property(scenario, ({ rows, hosts, replicas, zones, limited }) => {
      const zoneOf = (host: number): string => `z${host % zones}`;
      const endpoints = hosts.map((host, at) => `tcp://h${host}:${at + 1}`);
      const limit = limited === null ? {} : { hostLimitBytes: limited * ROW_BYTES };
      let placed: string[][];
      try {
        placed = place(rows, { replicas, endpoints, spread: { zone: hosts.map(zoneOf) }, ...limit });
      } catch (error) {
        expect(error).toBeInstanceOf(TerabagError);
        // Without limits it is possible whenever no zone has more endpoints than there are shards (hosts lie within zones).
        const most = Math.max(...[...new Set(hosts.map(zoneOf))].map((zone) => hosts.filter((host) => zoneOf(host) === zone).length));
        if (limited === null) expect(most).toBeGreaterThan(rows.length);
        return;
      }
      placements++;
      expect(placed.flat().sort()).toEqual([...endpoints].sort());
      const held = new Map<number, number>();
      for (const [shard, given] of placed.entries()) {
        const mine = given.map((endpoint) => hosts[endpoints.indexOf(endpoint)] as number);
        expect(new Set(mine).size).toBe(replicas);
        expect(new Set(mine.map(zoneOf)).size).toBe(replicas);
        for (const host of mine) held.set(host, (held.get(host) ?? 0) + (rows[shard] as number));
      }
      if (limited !== null) expect(Math.max(...held.values())).toBeLessThanOrEqual(limited);
    }),
    { numRuns: 2_000 },
  );
  expect(placements).toBeGreaterThan(100);
});

test('traits that lie across each other are kept apart too, whenever swaps find how', () => {
  // Rows and columns of a grid: each replica of a shard in another row and another column.
  const grid = [0, 1, 2].flatMap((row) => [0, 1, 2].map((column) => ({ row, column })));
  const endpoints = grid.map((_, at) => `tcp://h${at}:1`);
  const placed = place([1, 1, 1], {
    ...{ replicas: 3, endpoints, spread: { row: grid.map(({ row }) => `r${row}`), column: grid.map(({ column }) => `c${column}`) } },
  });
  for (const given of placed) {
    const cells = given.map((endpoint) => grid[endpoints.indexOf(endpoint)] as (typeof grid)[number]);
    expect(new Set(cells.map(({ row }) => row)).size).toBe(3);
    expect(new Set(cells.map(({ column }) => column)).size).toBe(3);
  }
});
