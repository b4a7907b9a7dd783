import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { cliReference } from '../../../scripts/cli-docs.js';

const page = readFileSync(new URL('../../../docs/cli.md', import.meta.url), 'utf8');

test('docs/cli.md is what the commands say with --help (npm run docs:cli writes it)', () => {
  expect(page).toBe(cliReference());
});

test('every command has examples, and its help fits 80 columns', () => {
  const sections = page.split(/^## /m).slice(1);
  expect(sections.length).toBe(18);
  for (const section of sections) {
    expect(section).toMatch(/\nExamples:\n {2}terabag /);
    const [, help = ''] = /```text\n([\s\S]*)\n```/.exec(section) ?? [];
    expect(help.split('\n').filter((line) => line.length > 80)).toEqual([]);
  }
});
