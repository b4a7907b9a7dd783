import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { TerabagError } from '../../../src/errors.js';
import type { ModelSpec, TableSpec } from '../../../src/model/spec.js';
import { planSummary, tableBytes } from '../../../src/plan/bytes.js';
import { planCapacityBalanced } from '../../../src/plan/capacity-balanced.js';
import { checkPlan, type Plan, readPlan, writePlan } from '../../../src/plan/plan.js';

const HASH = 'a'.repeat(64);
const table = (name: string, rows: number, dim = 4): TableSpec => ({
  name,
  rows,
  dim,
  format: 'fp32',
  file: `${name}.safetensors`,
  tensor: 'w',
});
const specOf = (tables: TableSpec[]): ModelSpec => ({
  terabag: 1,
  name: 'm',
  version: '1',
  dense: [],
  tables,
  nets: [],
  output: 'o',
  files: {},
});
const anySpec = fc
  .array(fc.tuple(fc.integer({ min: 1, max: 10_000 }), fc.integer({ min: 1, max: 64 })), { maxLength: 40 })
  .map((sizes) => specOf(sizes.map(([rows, dim], at) => table(`t${at}`, rows, dim))));

test('a capacity-balanced plan places every table once, balanced, and the same whatever the order of tables', () => {
  fc.assert(
    fc.property(anySpec, fc.integer({ min: 1, max: 12 }), (spec, shards) => {
      const plan = planCapacityBalanced(spec, HASH, { shards });
      checkPlan(plan, spec, HASH);
      expect(plan.tables.map((placed) => placed.table)).toEqual(spec.tables.map(({ name }) => name));
      const bytes = spec.tables.map(tableBytes);
      const total = bytes.reduce((sum, value) => sum + value, 0);
      const loads = planSummary(plan, spec).map((held) => held.bytes);
      expect(loads.reduce((sum, value) => sum + value, 0)).toBe(total);
      // Graham's bound of any list order: the last table put on the fullest shard came when that one was the emptiest.
      expect(Math.max(...loads)).toBeLessThanOrEqual(total / shards + Math.max(0, ...bytes) * (1 - 1 / shards) + 1e-6);
      const reversed = planCapacityBalanced({ ...spec, tables: [...spec.tables].reverse() }, HASH, { shards });
      expect(new Map(reversed.tables.map((placed) => [placed.table, placed.parts]))).toEqual(
        new Map(plan.tables.map((placed) => [placed.table, placed.parts])),
      );
    }),
    { numRuns: 300 },
  );
});

/** The least possible maximum, by trying every placement. */
function bestMaximum(bytes: readonly number[], shards: number): number {
  let best = Number.POSITIVE_INFINITY;
  const loads = new Array<number>(shards).fill(0);
  const place = (at: number): void => {
    if (at === bytes.length) best = Math.min(best, Math.max(...loads));
    for (let shard = 0; at < bytes.length && shard < shards; shard++) {
      loads[shard] = (loads[shard] as number) + (bytes[at] as number);
      place(at + 1);
      loads[shard] = (loads[shard] as number) - (bytes[at] as number);
    }
  };
  place(0);
  return best;
}

test('the fullest shard holds at most 4/3 - 1/(3 shards) of what the best plan would give it', () => {
  const few = fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 7 });
  fc.assert(
    fc.property(few, fc.integer({ min: 1, max: 3 }), (rows, shards) => {
      const spec = specOf(rows.map((count, at) => table(`t${at}`, count)));
      const loads = planSummary(planCapacityBalanced(spec, HASH, { shards }), spec).map((held) => held.bytes);
      const best = bestMaximum(spec.tables.map(tableBytes), shards);
      expect(Math.max(...loads)).toBeLessThanOrEqual((4 / 3 - 1 / (3 * shards)) * best + 1e-6);
    }),
    { numRuns: 200 },
  );
});

test('a table that does not fit is refused with its need and the room, and within the limit no shard holds more', () => {
  fc.assert(
    fc.property(anySpec, fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 4_000_000 }), (spec, shards, memoryLimitBytes) => {
      try {
        const plan = planCapacityBalanced(spec, HASH, { shards, memoryLimitBytes });
        for (const { bytes } of planSummary(plan, spec)) expect(bytes).toBeLessThanOrEqual(memoryLimitBytes);
      } catch (error) {
        expect(error).toBeInstanceOf(TerabagError);
        const { code, details, message } = error as TerabagError;
        expect(code).toBe('does_not_fit');
        expect(details['need']).toBe(tableBytes(spec.tables.find(({ name }) => name === details['table'])!));
        expect(details['need']).toBeGreaterThan(details['room'] as number);
        expect(message).toContain(`${details['table']} needs ${details['need']} bytes`);
      }
    }),
    { numRuns: 300 },
  );
});

test('shards and endpoints that make no plan are refused', () => {
  const spec = specOf([table('a', 1)]);
  for (const shards of [0, -1, 1.5, Number.NaN]) expect(() => planCapacityBalanced(spec, HASH, { shards })).toThrow(/shards has to be/);
  expect(() => planCapacityBalanced(spec, HASH, { shards: 2, endpoints: ['tcp://a:1'] })).toThrow(/1 endpoints, 2 shards/);
});

const spec = specOf([table('a', 9), table('b', 2)]);
const plan = planCapacityBalanced(spec, HASH, { shards: 3 });
const placed = (tables: Plan['tables']): Plan => ({ ...plan, tables });
const [a, b] = plan.tables as [Plan['tables'][number], Plan['tables'][number]];

test.each<[string, Plan, RegExp]>([
  ['a table that is missed', placed([a]), /misses a table: b/],
  ['a table placed twice', placed([a, b, a]), /places a table twice: a/],
  ['a table that the model does not have', placed([a, b, { table: 'c', parts: ['shard-0'] }]), /does not have: c/],
  ['a shard that the plan does not have', placed([a, { table: 'b', parts: ['shard-9'] }]), /table b is on a shard .* shard-9/],
  ['two parts on one shard', placed([a, { table: 'b', parts: ['shard-0', 'shard-0'] }]), /two parts .*: b/],
  [
    'fewer rows than parts',
    placed([a, { table: 'b', parts: ['shard-0', 'shard-1', 'shard-2'] }]),
    /fewer rows than parts: b, rows 2, parts 3/,
  ],
  ['shards of one name', { ...plan, shards: plan.shards.map((shard) => ({ ...shard, name: 'x' })) }, /shard names have to differ/],
  [
    'shards of one endpoint',
    { ...plan, shards: plan.shards.map((shard) => ({ ...shard, endpoints: ['tcp://x:1'] })) },
    /endpoints have to differ/,
  ],
])('refuses %s', (_, broken, reason) => {
  expect(() => checkPlan(broken, spec, HASH)).toThrow(reason);
  expect(() => checkPlan(broken, spec, HASH)).toThrow(expect.objectContaining({ code: 'bad_plan' }));
});

test('refuses the plan of another model', () => {
  expect(() => checkPlan(plan, spec, 'b'.repeat(64))).toThrow(expect.objectContaining({ code: 'model_mismatch' }));
});

test('a plan file reads back, and a broken one names where it is broken', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-unit-'));
  const path = join(dir, 'plan.json');
  await writePlan(path, plan);
  expect(await readPlan(path)).toEqual(plan);
  const broken: [unknown, RegExp][] = [
    [{ ...plan, shards: {} }, /plan: shards/],
    [{ ...plan, shards: [{ name: 'main', endpoints: ['tcp://x:1'] }] }, /no sparse shard may be called main/],
    [{ ...plan, shards: [{ name: 's', endpoints: ['http://x'] }] }, /plan: shards\.0\.endpoints\.0: has to be tcp/],
    [{ ...plan, shards: [{ name: 's', endpoints: ['tcp://x:1', 'tcp://y:1'] }] }, /exactly one endpoint/],
    [{ ...plan, tables: [{ table: 'a', parts: [] }] }, /plan: tables\.0\.parts/],
    [{ ...plan, model: { ...plan.model, hash: 'x' } }, /plan: model\.hash/],
    [{ ...plan, more: 1 }, /plan: root/],
    [[], /plan: root/],
  ];
  for (const [json, reason] of broken) {
    await writeFile(path, JSON.stringify(json));
    await expect(readPlan(path)).rejects.toThrow(reason);
    await expect(readPlan(path)).rejects.toMatchObject({ code: 'bad_plan' });
  }
  await writeFile(path, '{');
  await expect(readPlan(path)).rejects.toMatchObject({ code: 'bad_plan', details: { path } });
  await expect(readPlan(join(dir, 'none'))).rejects.toMatchObject({ code: 'bad_plan' });
  await rm(dir, { recursive: true });
});
