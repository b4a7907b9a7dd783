import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { ERROR_CODES } from '../../../src/errors.js';

const page = readFileSync(new URL('../../../docs/errors.md', import.meta.url), 'utf8');
const sections = page.split(/^## /m).slice(1);
const codeOf = (section: string): string => /^`(\w+)`\n/.exec(section)?.[1] ?? section.slice(0, 30);

test('docs/errors.md has a section for every code, in their order, and for no other', () => {
  expect(sections.map(codeOf)).toEqual([...ERROR_CODES]);
});

test.each(sections.map((section) => [codeOf(section), section]))(
  'docs/errors.md says when %s comes, with which details, and what to do',
  (_, section) => {
    for (const line of ['When', 'Details', 'Do']) expect(section).toMatch(new RegExp(`^${line}: \\S`, 'm'));
  },
);

test('docs/errors.md says of every code whose fault it is', () => {
  const table = page.slice(0, page.indexOf('\n## '));
  const named = table
    .split('\n')
    .filter((line) => line.startsWith('| `'))
    .flatMap((line) => [...(line.split('|')[1] as string).matchAll(/`(\w+)`/g)].map(([, code]) => code));
  expect(named.toSorted()).toEqual([...ERROR_CODES].sort());
});
