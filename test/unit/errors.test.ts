import { expect, test } from 'vitest';
import { TerabagError } from '../../src/errors.js';

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
