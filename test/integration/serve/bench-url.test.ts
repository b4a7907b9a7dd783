import { type SpawnSyncReturns, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openLocal, type Predictor, type ServingServer, serve } from '../../../src/index.js';
import { writeRequests } from '../../../src/lab/requests/request-file.js';
import { random, type SmallModel, smallRequest, writeSmallModel } from '../../reference/small-model.js';

const main = fileURLToPath(new URL('../../../dist/cli/main.js', import.meta.url));
let dir: string;
let model: SmallModel;
let predictor: Predictor;
let server: ServingServer;
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'terabag-bench-url-'));
  writeFileSync(join(dir, 'tokens'), 'secret-of-the-test\nanother\n');
  model = await writeSmallModel(61);
  predictor = await openLocal(model.dir, { deadlineMs: 10_000 });
  server = await serve([{ name: 'small', version: '3', predictor }], { http: '127.0.0.1:0', tokenFile: join(dir, 'tokens') });
});
afterAll(async () => {
  await server.close();
  await predictor.close();
  for (const used of [dir, model.dir]) rmSync(used, { recursive: true });
});

/** The server is in this process, which must not wait. */
function bench(...args: string[]): Promise<Pick<SpawnSyncReturns<string>, 'status' | 'stdout' | 'stderr'>> {
  const short = ['--duration', '300ms', '--warm-up', '100ms', '--repeats', '2', '--items', '8', '--deadline', '5s'];
  const child = spawn(process.execPath, [main, 'bench', ...short, ...args], { cwd: dir });
  const said = { stdout: '', stderr: '' };
  for (const stream of ['stdout', 'stderr'] as const)
    child[stream].on('data', (text) => {
      said[stream] += text;
    });
  return new Promise((resolve) => child.once('close', (status) => resolve({ status, ...said })));
}
const asking = (): string[] => ['--url', server.url, '--model', 'small:3', '--token-file', 'tokens'];
const written = () => JSON.parse(readFileSync(join(dir, 'results.json'), 'utf8'));

test('bench measures a served model at a rate, and says what the predictor took of a round trip and what HTTP', async () => {
  const { status, stdout } = await bench(...asking(), '--bundle', model.dir, '--qps', '100', '--json', 'results.json');
  const { results, strategy, model: named } = written();
  expect([strategy, named]).toEqual(['remote', { name: 'small', version: '3' }]);
  const [result] = results;
  expect(result.answered).toBeGreaterThan(30);
  expect(result.errors).toEqual({});
  expect(result.stacks.map(({ quantile }: { quantile: number }) => quantile)).toEqual([0.5, 0.99]);
  for (const { totalMs, layers } of result.stacks) {
    expect(Object.keys(layers)).toEqual(['predict', 'decode', 'encode', 'http']);
    expect(Object.values<number>(layers).reduce((sum, ms) => sum + ms, 0)).toBeCloseTo(totalMs, 6);
    expect(layers.http).toBeGreaterThan(0);
  }
  expect(stdout).toMatch(/http, ms/);
  expect(status).toBe(result.invalid.length === 0 ? 0 : 1);
});

test('bench sends a served model requests of a file, one at a time or cut into batches', async () => {
  await writeRequests(join(dir, 'requests.safetensors'), [smallRequest(random(6), 6)]);
  const file = ['--requests', 'requests.safetensors', '--json', 'results.json'];
  expect((await bench(...asking(), ...file, '--serial')).status).toBe(0);
  expect(written().results[0]).toMatchObject({ errors: {}, stacks: [{ quantile: 0.5 }, { quantile: 0.99 }] });
  expect((await bench(...asking(), ...file, '--batch-sweep', '2')).status).toBe(0);
  expect(written().results[0]).toMatchObject({ batchItems: 2, errors: {} });
});

test('what does not fit a served model is refused in one line', async () => {
  const usage = { status: 2, stderr: expect.stringMatching(/^error: /) };
  for (const args of [
    [],
    ['--url', server.url, '--bundle', model.dir],
    ['--url', server.url, '--model', 'small'],
    ['--url', server.url, '--model', 'small:', '--bundle', model.dir],
    ['--bundle', model.dir, '--model', 'small'],
    ['--bundle', model.dir, '--token-file', 'tokens'],
    [...asking(), '--bundle', model.dir, '--plan', 'plan.json'],
  ])
    expect(await bench('--serial', ...args)).toMatchObject(usage);
  const stranger = ['--url', server.url, '--model', 'small', '--bundle', model.dir, '--serial'];
  expect(await bench(...stranger)).toMatchObject({ status: 1, stderr: expect.stringContaining('bearer token') });
  expect(await bench(...asking(), '--bundle', model.dir, '--serial', '--model', 'large')).toMatchObject({
    status: 1,
    stderr: expect.stringContaining('no model is named'),
  });
});
