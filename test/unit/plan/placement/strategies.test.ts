import fc from 'fast-check';
import { expect, test } from 'vitest';
import { chartLoads } from '../../../../src/cli/plan-map.js';
import { TerabagError } from '../../../../src/errors.js';
import { rowBytes } from '../../../../src/model/formats.js';
import { modelHash } from '../../../../src/model/hash.js';
import type { ModelSpec, TableSpec } from '../../../../src/model/spec.js';
import { checkPlan, type Plan } from '../../../../src/plan/file/plan.js';
import { planSummary } from '../../../../src/plan/placement/bytes.js';
import { makePlan, STRATEGIES, type Strategy } from '../../../../src/plan/placement/strategies.js';
import type { Profile } from '../../../../src/plan/profile/profile.js';
import { ASSUMED_ITEMS, profileFromSpec } from '../../../../src/plan/profile/profile-from-spec.js';
import { planBySpec } from '../../../reference/plans.js';
import { anySpec, bagOf, specOf, table } from '../../../reference/specs.js';

const bytesOf = ({ rows, format, dim }: TableSpec): number => rows * rowBytes(format, dim);
const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
const total = (spec: ModelSpec): number => sum(spec.tables.map(bytesOf));
const largest = (spec: ModelSpec): number => Math.max(...spec.tables.map(bytesOf));

/** Bytes that each shard (and main) holds, row by row: row r belongs to part r mod parts. */
function heldBytes(plan: Plan, spec: ModelSpec): Map<string, number> {
  const held = new Map([...plan.shards.map(({ name }) => name), 'main'].map((name) => [name, 0]));
  for (const { name, rows, format, dim } of spec.tables) {
    const parts = plan.tables.find((placed) => placed.table === name)?.parts ?? [];
    const own = parts.map(() => 0);
    for (let row = 0; row < rows; row++) own[row % parts.length]!++;
    parts.forEach((shard, part) => held.set(shard, held.get(shard)! + own[part]! * rowBytes(format, dim)));
  }
  return held;
}

const shardsOf = (plan: Plan, held: Map<string, number>): number[] => plan.shards.map(({ name }) => held.get(name)!);

/** The spec with lookups of its own per table, as if sampled. */
function profileOf(spec: ModelSpec, lookups: readonly number[]): Profile {
  const profile = profileFromSpec(spec);
  return { ...profile, tables: profile.tables.map((sums, at) => ({ ...sums, lookups: lookups[at] ?? 0 })) };
}

/** Null when it was refused as does_not_fit, which has to say what, how much and by how much. */
function planOrRefusal(...[strategy, spec, options]: Parameters<typeof planBySpec>): Plan | null {
  try {
    return planBySpec(strategy, spec, options);
  } catch (error) {
    expect(error).toBeInstanceOf(TerabagError);
    const { code, details, message } = error as TerabagError;
    expect(code).toBe('does_not_fit');
    const { table: name, need, room } = details as { table: string; need: number; room: number };
    expect(need).toBe(bytesOf(spec.tables.find((candidate) => candidate.name === name)!));
    expect(room).toBeGreaterThanOrEqual(0);
    expect(room).toBeLessThan(need);
    expect(message).toMatch(new RegExp(`does not fit on .*: ${name} needs ${need} bytes.* room for ${room}, short by ${need - room}$`));
    return null;
  }
}

const strategies = fc.constantFrom(...STRATEGIES);
const shardCounts = fc.integer({ min: 1, max: 12 });
const sizes = fc.integer({ min: 1, max: 1_500_000 });

test('every strategy places every table once within the limits, or says what does not fit', () => {
  const optional = fc.option(sizes, { nil: undefined });
  const seen = { placed: 0, refused: 0, split: 0 };
  fc.assert(
    fc.property(strategies, anySpec, shardCounts, optional, optional, optional, (strategy, spec, shards, limit, local, packed) => {
      const options = {
        shards,
        ...(limit !== undefined && { memoryLimitBytes: limit }),
        ...(local !== undefined && { localBytes: local }),
        ...(packed !== undefined && { shardBytes: packed }),
      };
      const plan = planOrRefusal(strategy, spec, options);
      seen[plan === null ? 'refused' : 'placed']++;
      if (plan === null) return;
      checkPlan(plan, spec, modelHash(spec));
      expect(plan.strategy).toBe(strategy);
      expect(plan.tables.map((placed) => placed.table)).toEqual(spec.tables.map(({ name }) => name));
      if (plan.tables.some(({ parts }) => parts.length > 1)) seen.split++;
      const held = heldBytes(plan, spec);
      expect(sum([...held.values()])).toBe(total(spec));
      for (const bytes of held.values()) expect(bytes).toBeLessThanOrEqual(limit ?? Number.POSITIVE_INFINITY);
      if (strategy === 'singular') expect([plan.shards, held.get('main')]).toEqual([[], total(spec)]);
      else expect(held.get('main')).toBeLessThanOrEqual(local ?? 0);
      if (strategy === 'one-shard') expect(plan.shards.length).toBe(1);
      if (strategy === 'capacity-balanced' || strategy === 'load-balanced') expect(plan.shards.length).toBe(shards);
      if (strategy === 'nsbp') expect(plan.shards.length).toBeLessThanOrEqual(shards);
      if (strategy === 'nsbp' && packed !== undefined) for (const bytes of shardsOf(plan, held)) expect(bytes).toBeLessThanOrEqual(packed);
      const summary = planSummary(plan, spec);
      expect(summary.map(({ shard, bytes }) => [shard, bytes])).toEqual([...held].filter(([name, bytes]) => name !== 'main' || bytes > 0));
    }),
    { numRuns: 1000 },
  );
  expect(Math.min(...Object.values(seen))).toBeGreaterThan(20);
});

/** Bytes of each net's tables: of the net that looks up the most ids, by the spec's figures. */
function netOf(spec: ModelSpec, name: string): number {
  const lookups = spec.nets.map(({ layers }) =>
    sum(
      layers.map((layer) =>
        layer.type === 'embedding_bag' && layer.table === name
          ? (layer.poolingFactor ?? 1) * (layer.side === 'user' ? 1 : ASSUMED_ITEMS)
          : 0,
      ),
    ),
  );
  return lookups.indexOf(Math.max(...lookups));
}

test('what cannot fit is refused, and what surely fits is placed', () => {
  const seen = { refused: 0, placed: 0 };
  fc.assert(
    fc.property(strategies, anySpec, shardCounts, fc.double({ min: 0.2, max: 3, noNaN: true }), (strategy, spec, count, share) => {
      const shards = strategy === 'one-shard' || strategy === 'singular' ? 1 : count;
      const memoryLimitBytes = Math.ceil((total(spec) / shards) * share);
      const plan = planOrRefusal(strategy, spec, { shards, memoryLimitBytes });
      const nets = spec.nets.map((_, net) => sum(spec.tables.filter(({ name }) => netOf(spec, name) === net).map(bytesOf)));
      const spare = memoryLimitBytes - largest(spec);
      const surely = {
        singular: total(spec) <= memoryLimitBytes,
        'one-shard': total(spec) <= memoryLimitBytes,
        'capacity-balanced': total(spec) / shards <= spare,
        'load-balanced': total(spec) / shards <= spare,
        // Each net has the shards that it needs when one is as full as it can be without room for its largest table.
        nsbp: spare > 0 && sum(nets.map((bytes) => Math.ceil(bytes / spare))) <= shards,
      }[strategy];
      if (surely) expect(plan).not.toBeNull();
      if (total(spec) > shards * memoryLimitBytes) expect(plan).toBeNull();
      if (surely) seen.placed++;
      else if (plan === null) seen.refused++;
    }),
    { numRuns: 1000 },
  );
  expect(Math.min(...Object.values(seen))).toBeGreaterThan(100);
});

test('a table above the limit is split into the fewest parts that fit; below it stays whole', () => {
  fc.assert(
    fc.property(
      fc.constantFrom<Strategy>('capacity-balanced', 'load-balanced', 'nsbp'),
      fc.integer({ min: 1, max: 500 }),
      fc.integer({ min: 1, max: 9 }),
      fc.integer({ min: 1, max: 5000 }),
      fc.boolean(),
      (strategy, rows, dim, limit, packed) => {
        const spec = specOf([table('a', rows, dim)]);
        const most = (parts: number): number => Array.from({ length: rows }, (_, row) => row).filter((row) => row % parts === 0).length;
        let fewest = 1;
        while (fewest <= 64 && most(fewest) * dim * 4 > limit) fewest++;
        const plan = planOrRefusal(strategy, spec, { shards: 64, ...(packed ? { shardBytes: limit } : { memoryLimitBytes: limit }) });
        // Only nsbp packs.
        const limited = !packed || strategy === 'nsbp';
        if (limited && fewest > Math.min(64, rows)) expect(plan).toBeNull();
        else expect(plan?.tables[0]?.parts.length).toBe(limited ? fewest : 1);
      },
    ),
    { numRuns: 500 },
  );
});

test('parts of a keyed table have room for the copies of the rows that its rules name', () => {
  const seen = { placed: 0, refused: 0, split: 0 };
  const keyedTables = fc.array(
    fc.record({ rows: fc.integer({ min: 20, max: 500 }), dim: fc.integer({ min: 1, max: 9 }), named: fc.integer({ min: 1, max: 20 }) }),
    { minLength: 1, maxLength: 6 },
  );
  const spreading = fc.constantFrom<Strategy>('capacity-balanced', 'load-balanced', 'nsbp');
  fc.assert(
    fc.property(spreading, keyedTables, fc.integer({ min: 100, max: 8000 }), fc.boolean(), (strategy, tables, limit, packed) => {
      const spec = specOf(
        tables.map(({ rows, dim, named }, at) => ({
          ...table(`t${at}`, rows, dim),
          keys: { file: 'k.safetensors', tensor: `k${at}` },
          unseen: { policy: 'hash', rows: named },
        })),
      );
      const ofKey = 16;
      const held = (at: number): number => (tables[at]!.dim * 4 + ofKey) * tables[at]!.rows;
      let plan: Plan;
      try {
        plan = planBySpec(strategy, spec, { shards: 9, ...(packed ? { shardBytes: limit } : {}), memoryLimitBytes: limit });
      } catch (error) {
        const { code, details } = error as TerabagError;
        expect(code).toBe('does_not_fit');
        const { table: name, need, room } = details as { table: string; need: number; room: number };
        expect(need).toBe(held(Number(name.slice(1))));
        expect(room).toBeGreaterThanOrEqual(0);
        expect(room).toBeLessThan(need);
        seen.refused++;
        return;
      }
      seen.placed++;
      for (const { name } of plan.shards) {
        const bytes = plan.tables.map(({ parts }, at) => {
          const part = parts.indexOf(name);
          if (part === -1) return 0;
          const { rows, dim, named } = tables[at]!;
          if (parts.length > 1) seen.split++;
          const own = Array.from({ length: rows }, (_, row) => row).filter((row) => row % parts.length === part).length;
          return own * (dim * 4 + ofKey) + (parts.length > 1 ? named * dim * 4 : 0);
        });
        expect(sum(bytes)).toBeLessThanOrEqual(limit);
      }
    }),
    { numRuns: 1000 },
  );
  expect(Math.min(...Object.values(seen))).toBeGreaterThan(100);
});

test('a giant table is split over all shards before smaller, hotter ones take the room that it needs', () => {
  // By load alone, all cold tables would go to the shard without a hot one.
  const hot = ['hot0', 'hot1', 'hot2'].map((name) => table(name, 10));
  const cold = [400, 300, 300].map((rows, at) => table(`cold${at}`, rows));
  const spec = specOf([...hot, ...cold, table('giant', 100_000)]);
  const profile = profileOf(spec, [1000, 1000, 1000, 2, 2, 2, 1]);
  const plan = makePlan('load-balanced', spec, modelHash(spec), profile, { shards: 4, memoryLimitBytes: 25_420 * 16 });
  expect(plan.tables.map(({ parts }) => parts.length)).toEqual([1, 1, 1, 1, 1, 1, 4]);
});

test('the plan does not depend on the order of tables', () => {
  fc.assert(
    fc.property(strategies, anySpec, shardCounts, fc.option(sizes, { nil: 2 ** 40 }), sizes, (strategy, spec, shards, limit, local) => {
      const options = { shards, memoryLimitBytes: limit, localBytes: local };
      const plan = planOrRefusal(strategy, spec, options);
      const reversed = planOrRefusal(strategy, { ...spec, tables: spec.tables.toReversed() }, options);
      expect(reversed?.tables.toReversed()).toEqual(plan?.tables);
    }),
    { numRuns: 300 },
  );
});

/** The least possible maximum, by trying every placement. */
function bestMaximum(loads: readonly number[], shards: number): number {
  let best = Number.POSITIVE_INFINITY;
  const held = new Array<number>(shards).fill(0);
  const place = (at: number): void => {
    if (at === loads.length) best = Math.min(best, Math.max(...held));
    for (let shard = 0; at < loads.length && shard < shards; shard++) {
      held[shard] = held[shard]! + loads[at]!;
      place(at + 1);
      held[shard] = held[shard]! - loads[at]!;
    }
  };
  place(0);
  return best;
}

test.each([
  ['capacity-balanced', 'bytes'],
  ['load-balanced', 'rows'],
] as const)('the fullest shard of a %s plan has at most 4/3 - 1/(3 shards) of what the best plan would give it in %s', (strategy, load) => {
  const few = fc.array(fc.record({ rows: fc.integer({ min: 1, max: 30 }), lookups: fc.nat(30) }), { minLength: 1, maxLength: 7 });
  fc.assert(
    fc.property(few, fc.integer({ min: 1, max: 3 }), (tables, shards) => {
      const spec = specOf(tables.map(({ rows }, at) => table(`t${at}`, rows)));
      const profile = profileOf(
        spec,
        tables.map(({ lookups }) => lookups),
      );
      const plan = makePlan(strategy, spec, modelHash(spec), profile, { shards });
      const held = planSummary(plan, spec, profile).map((shard) => shard[load] as number);
      const loads = load === 'bytes' ? spec.tables.map(bytesOf) : tables.map(({ lookups }) => lookups);
      expect(sum(held)).toBeCloseTo(sum(loads), 6);
      expect(Math.max(...held)).toBeLessThanOrEqual((4 / 3 - 1 / (3 * shards)) * bestMaximum(loads, shards) + 1e-6);
    }),
    { numRuns: 300 },
  );
});

test('a shard of nsbp serves one net, packed by size or over a given number of shards', () => {
  fc.assert(
    fc.property(
      anySpec,
      fc.integer({ min: 3, max: 12 }),
      fc.option(fc.integer({ min: 2000, max: 4_000_000 })),
      (spec, shards, shardBytes) => {
        const plan = planOrRefusal('nsbp', spec, shardBytes === null ? { shards } : { shards: 20_000, shardBytes });
        if (plan === null) return;
        const nets = new Map<string, Set<number>>();
        for (const { table: name, parts } of plan.tables)
          for (const shard of parts) nets.set(shard, (nets.get(shard) ?? new Set()).add(netOf(spec, name)));
        for (const served of nets.values()) expect(served.size).toBe(1);
        const held = shardsOf(plan, heldBytes(plan, spec));
        if (shardBytes === null) {
          // The least possible greatest mean of a net's bytes per shard, and an even spread within a net (Graham's bound of any list order).
          const bytes = spec.nets.map((_, net) => sum(spec.tables.filter(({ name }) => netOf(spec, name) === net).map(bytesOf)));
          const means = bytes.flatMap((net) => held.map((_, at) => net / (at + 1))).filter((mean) => mean > 0);
          const enough = means.filter((mean) => sum(bytes.map((net) => Math.ceil(net / mean - 1e-9))) <= shards);
          for (const of of held) expect(of).toBeLessThanOrEqual(Math.min(...enough) + largest(spec));
        } else {
          // At most one shard of a net is less than half full, or its tables would have gone to an earlier one.
          for (const net of spec.nets.keys()) {
            const own = plan.shards.flatMap(({ name }, at) => (nets.get(name)?.has(net) ? [held[at]!] : []));
            expect(own.filter((bytes) => bytes < shardBytes / 2).length).toBeLessThanOrEqual(1);
            expect(own.every((bytes) => bytes > 0)).toBe(true);
          }
        }
      },
    ),
    { numRuns: 500 },
  );
});

const twoNets = (first: number[], second: number[]): ModelSpec =>
  specOf(
    [...first, ...second].map((rows, at) => table(`t${at}`, rows)),
    [first.map((_, at) => at), second.map((_, at) => first.length + at)].map((own, net) => ({
      name: `net${net}`,
      layers: own.map((at) => bagOf(`bag${at}`, `t${at}`)),
    })),
  );

test('nsbp gives nets shards by their bytes, and nets share shards only when there are fewer of these', () => {
  const spec = twoNets([300, 300, 300], [100, 100]);
  const shardsOfTables = (shards: number): string[] => planBySpec('nsbp', spec, { shards }).tables.map(({ parts }) => parts.join());
  expect(shardsOfTables(4)).toEqual(['shard-0', 'shard-1', 'shard-2', 'shard-3', 'shard-3']);
  expect(shardsOfTables(2)).toEqual(['shard-0', 'shard-0', 'shard-0', 'shard-1', 'shard-1']);
  expect(shardsOfTables(1)).toEqual(['shard-0', 'shard-0', 'shard-0', 'shard-0', 'shard-0']);
});

test('nsbp gives a net another shard when its tables do not fit on its share', () => {
  // Rows that cannot be cut: by bytes the first net has two of the five shards, which hold one of its tables each.
  const tables = [table('a', 1, 60), table('b', 1, 60), table('c', 1, 60), table('d', 200, 1)];
  const net = (name: string, own: string[]) => ({ name, layers: own.map((read) => bagOf(`bag_${read}`, read)) });
  const spec = specOf(tables, [net('n0', ['a', 'b', 'c']), net('n1', ['d'])]);
  const plan = planBySpec('nsbp', spec, { shards: 5, memoryLimitBytes: 400 });
  expect(plan.tables.map(({ parts }) => parts.join())).toEqual(['shard-0', 'shard-1', 'shard-2', 'shard-3,shard-4']);
  expect(planOrRefusal('nsbp', spec, { shards: 4, memoryLimitBytes: 400 })).toBeNull();
});

test('a table that two nets read belongs to the one that looks up more', () => {
  const spec = specOf(
    [table('shared', 100), table('first', 100), table('second', 100)],
    [
      { name: 'n0', layers: [bagOf('a', 'shared', { poolingFactor: 30, side: 'user' }), bagOf('b', 'first')] },
      { name: 'n1', layers: [bagOf('c', 'shared'), bagOf('d', 'second')] },
    ],
  );
  const [shared, first, second] = planBySpec('nsbp', spec, { shards: 2 }).tables.map(({ parts }) => parts.join());
  expect(shared).toBe(second);
  expect(first).not.toBe(second);
});

test('main keeps the tables with the most lookups per byte that fit its budget, and none that nobody asks', () => {
  const spec = specOf([table('cold', 1), table('small', 10), table('hot', 100), table('large', 1000), table('tiny', 9)]);
  const profile = profileOf(spec, [0, 5, 500, 900, 1]);
  const kept = (strategy: Strategy, rows: number): string[] =>
    makePlan(strategy, spec, modelHash(spec), profile, { shards: 2, localBytes: rows * 16 })
      .tables.filter(({ parts }) => parts[0] === 'main')
      .map((placed) => placed.table);
  for (const strategy of ['one-shard', 'capacity-balanced', 'load-balanced', 'nsbp'] as const) {
    expect(kept(strategy, 8)).toEqual([]);
    expect(kept(strategy, 10)).toEqual(['small']);
    // Hot (5 per row) comes before large (0.9), small (0.5) and tiny (0.1).
    expect(kept(strategy, 100)).toEqual(['hot']);
    expect(kept(strategy, 119)).toEqual(['small', 'hot', 'tiny']);
    // Large is looked up most, and would leave no room for them.
    expect(kept(strategy, 1000)).toEqual(['small', 'hot', 'tiny']);
    expect(kept(strategy, 2000)).toEqual(['small', 'hot', 'large', 'tiny']);
  }
  expect(kept('singular', 0)).toEqual(['cold', 'small', 'hot', 'large', 'tiny']);
});

test('options that make no plan are refused', () => {
  const spec = specOf([table('a', 1)]);
  for (const shards of [0, -1, 1.5, Number.NaN, 1e9])
    expect(() => planBySpec('capacity-balanced', spec, { shards })).toThrow(/shards has to be/);
  expect(() => planBySpec('nsbp', spec, { shards: 2, endpoints: ['tcp://a:1'] })).toThrow(/1 endpoints, 2 shards/);
  for (const [given, told] of [
    [['tcp://a:1', 'tcp://a:1'], 'tcp://a:1'],
    [['tcp://a:1', ''], ''],
    [['http://a:1', 'tcp://b:1'], 'http://a:1'],
  ] as const)
    expect(() => planBySpec('nsbp', spec, { shards: 2, endpoints: given })).toThrow(new RegExp(`and to differ: ${told}$`));
  // Ports end at 65535.
  expect(planBySpec('capacity-balanced', spec, { shards: 65_535 - 7400 + 1 }).shards.at(-1)?.endpoints).toEqual(['tcp://127.0.0.1:65535']);
  expect(() => planBySpec('capacity-balanced', spec, { shards: 65_535 - 7400 + 2 })).toThrow(
    /no default endpoints, give them theirs: 58137/,
  );
  for (const field of ['memoryLimitBytes', 'localBytes', 'shardBytes'])
    expect(() => planBySpec('nsbp', spec, { shards: 1, [field]: Number.NaN })).toThrow(new RegExp(`${field} has to be`));
  expect(() => planBySpec('random' as Strategy, spec, { shards: 1 })).toThrow(/strategy has to be one of singular/);
  const given = ['tcp://a:1', 'tcp://b:1'];
  const endpoints = (strategy: Strategy): string[] =>
    planBySpec(strategy, spec, { shards: 2, endpoints: given }).shards.flatMap((shard) => shard.endpoints);
  expect(endpoints('capacity-balanced')).toEqual(given);
  expect(endpoints('one-shard')).toEqual(['tcp://a:1']);
  expect(endpoints('singular')).toEqual([]);
});

test('a profile of another model, or of other tables, is refused', () => {
  const spec = specOf([table('a', 1), table('b', 1)]);
  const profile = profileFromSpec(spec);
  const plan = (given: Profile) => makePlan('load-balanced', spec, modelHash(spec), given, { shards: 1 });
  expect(() => plan({ ...profile, model: { ...profile.model, hash: 'b'.repeat(64) } })).toThrow(
    expect.objectContaining({ code: 'model_mismatch' }),
  );
  expect(() => plan({ ...profile, tables: profile.tables.toReversed() })).toThrow(/at 0, the model has a, the profile b/);
  expect(() => plan({ ...profile, tables: profile.tables.slice(1, 1) })).toThrow(/at 0, the model has a, the profile none/);
  expect(() => plan({ ...profile, tables: [...profile.tables, ...profile.tables] })).toThrow(/at 2, the model has none, the profile a/);
});

test('what a shard is said to hold is its rows of each table, of a split one those of its part, and main has its own', () => {
  const spec = specOf([table('a', 10), table('b', 7), table('c', 3)]);
  const profile = profileOf(spec, [20, 14, 5]);
  const shards = ['s0', 's1', 's2'].map((name, at) => ({ name, endpoints: [`tcp://x:${at + 1}`] }));
  const plan: Plan = {
    ...{ terabagPlan: 1, strategy: 'by-hand', model: { name: 'm', version: '1', hash: modelHash(spec) }, shards },
    tables: [
      { table: 'a', parts: ['s1', 's0', 's2'] },
      { table: 'b', parts: ['s1'] },
      { table: 'c', parts: ['main'] },
    ],
  };
  checkPlan(plan, spec, modelHash(spec));
  // Rows 0 3 6 9 of a, then 1 4 7, then 2 5 8; 16 bytes a row.
  expect(planSummary(plan, spec, profile)).toEqual([
    { shard: 's0', endpoints: ['tcp://x:1'], tables: 1, parts: 1, bytes: 48, rows: 6 },
    { shard: 's1', endpoints: ['tcp://x:2'], tables: 2, parts: 1, bytes: 64 + 112, rows: 8 + 14 },
    { shard: 's2', endpoints: ['tcp://x:3'], tables: 1, parts: 1, bytes: 48, rows: 6 },
    { shard: 'main', endpoints: [], tables: 1, parts: 0, bytes: 48, rows: 5 },
  ]);
  expect(planSummary(plan, spec).map(({ rows }) => rows)).toEqual([null, null, null, null]);
  expect(chartLoads(plan, spec)).toEqual([
    { shard: 's0', tables: [{ table: 'a 2/3', bytes: 48 }] },
    {
      shard: 's1',
      tables: [
        { table: 'b', bytes: 112 },
        { table: 'a 1/3', bytes: 64 },
      ],
    },
    { shard: 's2', tables: [{ table: 'a 3/3', bytes: 48 }] },
    { shard: 'main', tables: [{ table: 'c', bytes: 48 }] },
  ]);
});
