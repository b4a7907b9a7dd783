import { rmSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openLocal, type Predictor } from '../../../src/index.js';
import { inferBody, readAnswer, tensorsOf } from '../../reference/infer-body.js';
import { startServe } from '../../reference/serve-process.js';
import { DENSE, random, type SmallModel, smallRequest, writeSmallModel } from '../../reference/small-model.js';

let model: SmallModel;
let predictor: Predictor;
beforeAll(async () => {
  model = await writeSmallModel(14);
  predictor = await openLocal(model.dir, { deadlineMs: 10_000 });
});
afterAll(async () => {
  await predictor.close();
  rmSync(model.dir, { recursive: true });
});

const request = (seed: number) => smallRequest(random(seed * 1_000_003), 1 + (seed % 5));
async function infer(url: string, seed: number): Promise<Float32Array | undefined> {
  const { body, headers } = inferBody(tensorsOf(request(seed), { dense: DENSE }), () => true, {
    parameters: { binary_data_output: true, priority: seed % 4 },
  });
  const response = await fetch(`${url}/v2/models/small/infer`, { method: 'POST', body, headers });
  return (await readAnswer(response)).outputs['scores'];
}

/** Of the series whose name and labels match. */
const sum = (text: string, series: RegExp): number =>
  text
    .split('\n')
    .filter((line) => series.test(line))
    .reduce((total, line) => total + Number(line.slice(line.lastIndexOf(' '))), 0);

test('a server with workers and batching gives the bits of predict, and counts all of it in one text', async () => {
  const server = await startServe([
    model.dir,
    '--workers',
    '2',
    '--metrics',
    '127.0.0.1:0',
    '--batch-delay',
    '2ms',
    '--deadline',
    '10s',
    '--drain',
    '0s',
  ]);
  try {
    await expect.poll(async () => (await fetch(`${server.url}/v2/health/ready`)).ok, { timeout: 20_000 }).toBe(true);
    for (let round = 0; round < 4; round++) {
      const seeds = Array.from({ length: 32 }, (_, n) => 32 * round + n + 1);
      const scores = await Promise.all(seeds.map((seed) => infer(server.url, seed)));
      for (const [n, seed] of seeds.entries()) expect(scores[n]).toEqual((await predictor.predict(request(seed))).scores);
    }
    const refused = await fetch(`${server.url}/v2/models/small/infer`, { method: 'POST', body: '{"inputs": []}' });
    expect(refused.status).toBe(400);
    const response = await fetch(`${server.url}/metrics`);
    expect(response.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/);
    const text = await response.text();
    const items = Array.from({ length: 128 }, (_, n) => 1 + ((n + 1) % 5)).reduce((a, b) => a + b, 0);
    expect(sum(text, /^terabag_requests_total\{.*model="small".*protocol="http".*code="ok"/)).toBe(128);
    expect(sum(text, /^terabag_requests_total\{.*code="invalid_argument"/)).toBe(1);
    expect(sum(text, /^terabag_request_items_total\{.*model="small".*protocol="http"/)).toBe(items);
    expect(sum(text, /^terabag_request_duration_seconds_count\{.*model="small".*protocol="http"/)).toBe(128);
    expect(sum(text, /^terabag_stage_duration_seconds_count\{.*stage="dense"/)).toBeGreaterThan(0);
    // Fewer runs than requests, all of which were in one.
    expect(sum(text, /^terabag_batch_requests_sum\{/)).toBe(128);
    expect(sum(text, /^terabag_batch_requests_count\{/)).toBeLessThan(128);
    expect(sum(text, /^terabag_batch_waiting\{/)).toBe(0);
    const status = (await (await fetch(`${server.url}/status.json`)).json()) as { models: readonly { name: string }[] };
    expect(status.models.map(({ name }) => name)).toEqual(['small']);
  } finally {
    expect(await server.end()).toBe(0);
  }
});
