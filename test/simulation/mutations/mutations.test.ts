import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { MUTATIONS } from './list.js';
import { copySources, mutated, ROOT, runSimulator } from './mutate.js';

test.each(MUTATIONS)('what a mutation replaces stands once in its file: $name', (mutation) => {
  const source = readFileSync(join(ROOT, mutation.file), 'utf8');
  expect(mutated(source, mutation)).not.toBe(source);
});

test('the sources that mutations are made in are all that the simulator needs', () => {
  const root = copySources();
  try {
    const { stdout, stderr, status } = runSimulator(root, ['--list']);
    expect({ stderr, status }).toEqual({ stderr: '', status: 0 });
    expect(stdout).toContain('one-answer');
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
});
