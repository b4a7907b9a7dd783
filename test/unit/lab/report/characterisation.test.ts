import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Characterisation, readCharacterisation, writeCharacterisation } from '../../../../src/lab/report/characterisation.js';
import { fullCharacterisation } from '../../../reference/characterisation.js';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'terabag-characterisation-'));
});
afterAll(() => rmSync(dir, { recursive: true }));

test('results come back as they were written', async () => {
  const path = join(dir, 'results.json');
  await writeCharacterisation(path, fullCharacterisation());
  expect(await readCharacterisation(path)).toEqual(fullCharacterisation());
});

test.each<[string, (results: Characterisation & Record<string, unknown>) => unknown]>([
  ['terabagCharacterisation', (results) => Object.assign(results, { terabagCharacterisation: 2 })],
  ['root', (results) => Object.assign(results, { surprise: 1 })],
  ['model.hash', (results) => Object.assign(results.model, { hash: 'short' })],
  ['startedAt', (results) => Object.assign(results, { startedAt: 'yesterday' })],
  ['configurations.1.runs.0.latencyMs.p99', (results) => Object.assign(results.configurations[1]!.runs[0]!.latencyMs, { p99: -1 })],
  ['configurations.1.runs.0.qps', (results) => Object.assign(results.configurations[1]!.runs[0]!, { qps: 5 })],
  ['configurations.2.id', (results) => Object.assign(results.configurations[2]!, { id: 'one-shard' })],
  ['configurations.0.runs.2', (results) => results.configurations[0]!.runs.push(results.configurations[0]!.runs[0]!)],
  ['overheads.3.baseline', (results) => Object.assign(results.overheads[3]!, { baseline: 'nobody' })],
  ['knees.0.configuration', (results) => Object.assign(results.knees[0]!, { configuration: 'nobody' })],
  ['waterfall.configuration', (results) => Object.assign(results.waterfall!, { configuration: 'nobody' })],
])('refuses a wrong %s, and names it', async (field, spoil) => {
  const results = fullCharacterisation();
  spoil(results);
  const path = join(dir, 'spoilt.json');
  writeFileSync(path, JSON.stringify(results));
  await expect(readCharacterisation(path)).rejects.toMatchObject({
    code: 'invalid_argument',
    message: expect.stringContaining(`results of characterise: ${field}: `),
  });
});
