import { createHash } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { connect, launchCluster, publish } from '../../../../src/index.js';
import { modelHash } from '../../../../src/model/hash.js';
import { checkPlan, type Plan, planHashOf, readPlan, writePlan } from '../../../../src/plan/file/plan.js';
import { capacityPlan } from '../../../reference/plans.js';
import { specOf, table } from '../../../reference/specs.js';

const spec = specOf([table('a', 9), table('b', 2)]);
const HASH = modelHash(spec);
const plan = capacityPlan(spec, 3);
const placed = (tables: Plan['tables']): Plan => ({ ...plan, tables });
const [a, b] = plan.tables as [Plan['tables'][number], Plan['tables'][number]];

test.each<[string, Plan, RegExp]>([
  ['a table that is missed', placed([a]), /misses a table: b/],
  ['a table placed twice', placed([a, b, a]), /places a table twice: a/],
  ['a table that the model does not have', placed([a, b, { table: 'c', parts: ['shard-0'] }]), /does not have: c/],
  ['a shard that the plan does not have', placed([a, { table: 'b', parts: ['shard-9'] }]), /table b is on a shard .* shard-9/],
  ['two parts on one shard', placed([a, { table: 'b', parts: ['shard-0', 'shard-0'] }]), /two parts .*: b/],
  ['a table without parts', placed([a, { table: 'b', parts: [] }]), /no part of a table: b/],
  ['a split table that main is to hold a part of', placed([a, { table: 'b', parts: ['main', 'shard-0'] }]), /main cannot be split: b/],
  [
    'fewer rows than parts',
    placed([a, { table: 'b', parts: ['shard-0', 'shard-1', 'shard-2'] }]),
    /fewer rows than parts: b, rows 2, parts 3/,
  ],
  ['shards of one name', { ...plan, shards: plan.shards.map((shard) => ({ ...shard, name: 'x' })) }, /shard names have to differ/],
  [
    'shards of one endpoint',
    { ...plan, shards: plan.shards.map((shard) => ({ ...shard, endpoints: ['tcp://x:1'] })) },
    /endpoints have to differ, those of shard-0 and shard-1 do not: tcp:\/\/x:1$/,
  ],
  [
    'replicas of one endpoint that is spelled in two ways',
    { ...plan, shards: [...plan.shards, { name: 'd', endpoints: ['tcp://[fd00::1]:7', 'tcp://[FD00:0::1]:07'] }] },
    /endpoints have to differ, those of d and d do not: tcp:\/\/\[FD00:0::1\]:07$/,
  ],
  [
    'two replicas of one endpoint',
    { ...plan, shards: [...plan.shards, { name: 'd', endpoints: ['tcp://x:1', 'tcp://y:1', 'tcp://x:1'] }] },
    /endpoints have to differ, those of d and d do not: tcp:\/\/x:1$/,
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
  const named = ['shard-0', 'a', '9.x_Y', 's'.repeat(128)].map((name, at) => ({ name, endpoints: [`tcp://[::${at + 1}]:65535`] }));
  const odd = { ...plan, epoch: 7, shards: [...named, { name: 'b', endpoints: ['ipc:///run/b', 'ipc:///run/c', 'tcp://d:1'] }] };
  await writePlan(path, odd);
  expect(await readPlan(path)).toEqual(odd);
  const broken: [unknown, RegExp][] = [
    [{ ...plan, shards: {} }, /plan: shards/],
    [{ ...plan, shards: [{ name: 'main', endpoints: ['tcp://x:1'] }] }, /no sparse shard may be called main/],
    [{ ...plan, shards: [{ name: 's', endpoints: ['http://x'] }] }, /plan: shards\.0\.endpoints\.0: has to be tcp/],
    [{ ...plan, shards: [{ name: 's', endpoints: [] }] }, /plan: shards\.0\.endpoints: a shard needs an endpoint/],
    ...[-1, 0.5, 2 ** 53, '1', null].map((epoch): [unknown, RegExp] => [{ ...plan, epoch }, /plan: epoch/]),
    ...['tcp://x', 'tcp://x:', 'tcp://:1', 'tcp://x:0', 'tcp://x:65536', 'tcp://x:1:2', 'tcp://x:*', 'ipc://', 'x:1', ''].map(
      (endpoint): [unknown, RegExp] => [{ ...plan, shards: [{ name: 's', endpoints: [endpoint] }] }, /endpoints\.0: has to be tcp/],
    ),
    ...['', '..', '.s', 'a/b', 'a\\b', 'a b', 'a,b', '-s', 'ü', 's\n', 's\0', 's'.repeat(129)].map((name): [unknown, RegExp] => [
      { ...plan, shards: [{ name, endpoints: ['tcp://x:1'] }] },
      /plan: shards\.0\.name/,
    ]),
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
  await writePlan(path, plan);
  for (const [value, reason] of broken) {
    await expect(writePlan(path, value as Plan)).rejects.toThrow(reason);
    await expect(writePlan(path, value as Plan)).rejects.toMatchObject({ code: 'bad_plan', details: { path, field: expect.any(String) } });
  }
  await expect(writePlan(path, undefined as unknown as Plan)).rejects.toMatchObject({ code: 'bad_plan', details: { field: 'root' } });
  expect(await readPlan(path)).toEqual(plan);
  await writeFile(path, '{');
  await expect(readPlan(path)).rejects.toMatchObject({ code: 'bad_plan', details: { path } });
  await expect(readPlan(join(dir, 'none'))).rejects.toMatchObject({ code: 'bad_plan' });
  await rm(dir, { recursive: true });
});

test('the hash of a plan is that of its model, epoch, shard names and tables, whatever order the file has', () => {
  const small: Plan = {
    ...{ terabagPlan: 1, strategy: 'by hand', model: { hash: 'c'.repeat(64), version: '2', name: 'm' } },
    shards: ['s', 'r'].map((name, at) => ({ name, endpoints: [`tcp://${name}:${at + 1}`] })),
    tables: [{ parts: ['r', 's'], table: 't' }],
  };
  const canonical = (epoch: number): string =>
    `{"epoch":${epoch},"model":{"hash":"${'c'.repeat(64)}","name":"m","version":"2"},"shards":["s","r"],"tables":[{"parts":["r","s"],"table":"t"}]}`;
  const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');
  expect(planHashOf(small)).toBe(sha256(canonical(0)));
  expect(planHashOf({ ...small, epoch: 0 })).toBe(sha256(canonical(0)));
  expect(planHashOf({ ...small, epoch: 2 ** 53 - 1 })).toBe(sha256(canonical(2 ** 53 - 1)));
  const moved = {
    ...small,
    strategy: 'auto',
    shards: small.shards.map(({ name }) => ({ name, endpoints: ['tcp://a:1', `ipc://${name}`] })),
  };
  expect(planHashOf(moved)).toBe(planHashOf(small));
  const others: Plan[] = [
    { ...small, model: { ...small.model, hash: 'd'.repeat(64) } },
    { ...small, shards: small.shards.toReversed() },
    { ...small, tables: [{ table: 't', parts: ['s', 'r'] }] },
    { ...small, epoch: 1 },
  ];
  expect(new Set([small, ...others].map(planHashOf)).size).toBe(5);
});

test('a plan of 10,000 tables over 1,000 shards passes the check, and misses are found in it', () => {
  const many = specOf(Array.from({ length: 10_000 }, (_, at) => table(`t${at}`, 1 + ((at * 7919) % 5000))));
  const large = capacityPlan(many, 1000);
  expect(() => checkPlan(large, many, modelHash(many))).not.toThrow();
  expect(() => checkPlan({ ...large, tables: large.tables.slice(0, -1) }, many, modelHash(many))).toThrow(/misses a table: t9999/);
});

test.each<[string, unknown, string]>([
  ['no object', undefined, 'root'],
  ['an empty object', {}, 'terabagPlan'],
  ['a shard without endpoints', { ...plan, shards: [{ name: 'shard-0' }] }, 'shards.0.endpoints'],
  ['a table without parts', { ...plan, tables: [{ table: 'a' }] }, 'tables.0.parts'],
])('what is no plan is refused with the field by all that take one: %s', async (_, value, field) => {
  const wrong = value as Plan;
  const refusal = { code: 'bad_plan', message: expect.stringMatching(/^plan: /), details: { field } };
  await expect(connect(wrong, { bundle: 'nowhere' })).rejects.toMatchObject(refusal);
  await expect(launchCluster(wrong, { bundle: 'nowhere' })).rejects.toMatchObject(refusal);
  await expect(publish(wrong, 'nowhere', 'nowhere')).rejects.toMatchObject(refusal);
});
