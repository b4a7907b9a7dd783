import { expect, test } from 'vitest';
import { TerabagError } from '../../src/errors.js';
import { connect, launchCluster, openLocal, openModel, type Plan, publish, readPlan } from '../../src/index.js';

const plan: Plan = {
  terabagPlan: 1,
  strategy: 'by hand',
  model: { name: 'm', version: '1', hash: 'a'.repeat(64) },
  shards: [{ name: 's', endpoints: ['tcp://127.0.0.1:7400'] }],
  tables: [],
};

test('what is thrown is wrapped with its message and cause, a TerabagError passes through', () => {
  const typed = new TerabagError('bad_plan', 'no such shard', { shard: 's' });
  expect(TerabagError.from(typed)).toBe(typed);
  const cause = new RangeError('out of range');
  expect(TerabagError.from(cause)).toMatchObject({ code: 'internal', message: 'out of range', details: {}, cause });
  expect(TerabagError.from('a string', 'bad_model')).toMatchObject({ code: 'bad_model', message: 'a string' });
});

test.each([
  ['EMFILE', 'overloaded', /ulimit -n/],
  ['ENFILE', 'overloaded', /fs\.file-max/],
  ['ENOMEM', 'does_not_fit', /ulimit -v/],
])('a shortage of the process or the machine keeps its code whoever meets it: %s', (reason, code, help) => {
  const cause = Object.assign(new Error(`${reason}: open '/a/module.js'`), { code: reason });
  const error = TerabagError.from(cause, 'bad_model');
  expect(error).toMatchObject({ code, details: { reason }, cause });
  expect(error.message).toMatch(help);
});

test('what a caller forgot, or gave as something else, is refused with its name by all that open, connect, launch and publish', async () => {
  const refused = (field: string, given: string): object => ({
    code: 'invalid_argument',
    message: expect.stringMatching(new RegExp(`^${field} has to be .*: ${given}$`)),
  });
  for (const [bundle, given] of [
    [undefined, 'undefined'],
    [5, 'a number'],
    ['', ''],
  ] as [string, string][]) {
    await expect(openLocal(bundle)).rejects.toMatchObject(refused('bundle', given));
    await expect(openModel(bundle)).rejects.toMatchObject(refused('bundle', given));
    await expect(connect(plan, { bundle })).rejects.toMatchObject(refused('bundle', given));
    await expect(launchCluster(plan, { bundle })).rejects.toMatchObject(refused('bundle', given));
    await expect(publish(plan, bundle, 'out')).rejects.toMatchObject(refused('bundle', given));
    await expect(publish(plan, 'bundle', bundle)).rejects.toMatchObject(refused('outDir', given));
    await expect(readPlan(bundle)).rejects.toMatchObject(refused('plan', given));
  }
  for (const options of [null, 5] as never[]) {
    const given = options === null ? 'null' : 'a number';
    await expect(openLocal('bundle', options)).rejects.toMatchObject(refused('options', given));
    await expect(connect(plan, options)).rejects.toMatchObject(refused('options', given));
    await expect(launchCluster(plan, options)).rejects.toMatchObject(refused('options', given));
    await expect(publish(plan, 'bundle', 'out', options)).rejects.toMatchObject(refused('options', given));
  }
});
