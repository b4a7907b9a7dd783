import { expect, test } from 'vitest';
import { Items, type Plain, Setting, When } from '../../../../src/cluster/deploy/document.js';
import { type Dialect, toYaml } from '../../../../src/cluster/deploy/yaml.js';

const plain: Dialect = { setting: () => null, items: () => null, when: ({ setting, is }) => setting.value === is, text: (text) => text };
const template: Dialect = {
  setting: ({ path }) => `<${path.join('.')}>`,
  items: ({ setting }) => ({ before: `<each ${setting.path.join('.')}>`, element: '<it>', after: '<end>' }),
  when: ({ setting, is }) => ({ before: `<if ${is} ${setting.path.join('.')}>`, after: '<end>' }),
  text: (text) => text.replaceAll('<', '<lt>'),
};

const list = new Setting<readonly Plain[]>(['more'], ['c', { d: 1 }], '');
const node = {
  a: { b: [1, { c: true, d: null }, ['x']], empty: {}, none: [], left: undefined },
  size: new Setting(['size'], { cpu: '2' }, ''),
  args: ['<', new Items(list)],
  deep: { count: new When(new Setting(['scales'], true, ''), false, 2), other: new When(new Setting(['scales'], true, ''), true, 3) },
};

test('documents have the defaults of their settings', () => {
  expect(toYaml(node, plain)).toBe(
    `a:
  b:
    - 1
    - c: true
      d: null
    - - x
  empty: {}
  none: []
size:
  cpu: "2"
args:
  - "<"
  - c
  - d: 1
deep:
  other: 3
`,
  );
});

test('templates have expressions in their place, and lines of their own around what depends on a setting', () => {
  expect(toYaml({ args: node.args, size: node.size, deep: node.deep }, template)).toBe(
    `args:
  - "<lt>"
<each more>
  - <it>
<end>
size: <size>
deep:
<if false scales>
  count: 2
<end>
<if true scales>
  other: 3
<end>
`,
  );
});

test('text that would be read as something else is quoted; lines stay lines where nothing of them gets lost', () => {
  const texts = ['yes', 'null', '1', '1e3', '~', '-', 'a b', 'a: b', '#', '*', '&', '!', '"', "'", 'é', '', ' ', 'tcp://*:1', '0x1', '1_0'];
  for (const text of texts) expect(toYaml({ a: text }, plain)).toBe(`a: ${JSON.stringify(text)}\n`);
  expect(toYaml({ a: 'x\u2028\u0085' }, plain)).toBe('a: "x\\u2028\\u0085"\n');
  for (const text of ['a', 'a/b.c', 'yesterday', '_x']) expect(toYaml({ a: text }, plain)).toBe(`a: ${text}\n`);
  expect(toYaml({ a: { b: 'x\n\n  y\n' } }, plain)).toBe('a:\n  b: |\n    x\n\n      y\n');
  for (const text of ['x\ny', 'x \ny\n', ' x\ny\n', 'x\ny\n\n', 'x\ré\n', 'é\ny\n', 'x\0\ny\n'])
    expect(toYaml({ a: text }, plain)).toBe(`a: ${JSON.stringify(text)}\n`);
});
