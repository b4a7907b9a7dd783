import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { cliReference } from '../../../scripts/cli-docs.js';

const page = readFileSync(new URL('../../../docs/cli.md', import.meta.url), 'utf8');

test('docs/cli.md is what the commands say with --help (npm run docs:cli writes it)', () => {
  expect(page).toBe(cliReference());
});

test('every command has examples, and its help fits 80 columns', () => {
  const sections = page.split(/^## /m).slice(1);
  const sources = readdirSync(new URL('../../../src/cli', import.meta.url)).map((file) =>
    readFileSync(new URL(`../../../src/cli/${file}`, import.meta.url), 'utf8'),
  );
  // And one of the program itself.
  expect(sections.length - 1).toBe(sources.flatMap((source) => source.match(/^export const \w+Command = /gm) ?? []).length);
  for (const section of sections) {
    expect(section).toMatch(/\nExamples:\n {2}terabag /);
    const [, help = ''] = /```text\n([\s\S]*)\n```/.exec(section) ?? [];
    expect(help.split('\n').filter((line) => line.length > 80)).toEqual([]);
  }
});
