import { rm } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openLocal, type Predictor, type ServingServer, serve } from '../../../src/index.js';
import { parseServerTiming } from '../../../src/lab/endpoint/server-stages.js';
import { inferBody, tensorsOf } from '../../reference/infer-body.js';
import { DENSE, random, type SmallModel, smallRequest, writeSmallModel } from '../../reference/small-model.js';

let model: SmallModel;
let predictor: Predictor;
let server: ServingServer;
beforeAll(async () => {
  model = await writeSmallModel(7);
  predictor = await openLocal(model.dir, { deadlineMs: 10_000 });
  server = await serve(predictor, { http: '127.0.0.1:0', name: 'small' });
});
afterAll(async () => {
  await server.close();
  await predictor.close();
  await rm(model.dir, { recursive: true });
});

const request = smallRequest(random(5), 5);
const ASKING = { 'x-terabag-timing': '1' };

async function timingOf(path: string, body: Buffer | string, headers: Record<string, string>): Promise<string | null> {
  const response = await fetch(server.url + path, { method: 'POST', body, headers });
  expect(response.status).toBe(200);
  return response.headers.get('server-timing');
}

test('stages are told where the header or the parameter timing asks for them', async () => {
  const infer = (more: object, asking: Record<string, string>): Promise<string | null> => {
    const { body, headers } = inferBody(tensorsOf(request, { dense: DENSE }), () => true, more);
    return timingOf('/v2/models/small/infer', body, { ...headers, ...asking });
  };
  const rank = (asking: Record<string, string>): Promise<string | null> => {
    const listed = { ...request, dense: { dense: [...request.dense['dense']!] }, sparse: {} as Record<string, object> };
    for (const [name, { indices, offsets, weights }] of Object.entries(request.sparse))
      listed.sparse[name] = { indices: [...indices], offsets: [...offsets], ...(weights && { weights: [...weights] }) };
    return timingOf('/v1/models/small:rank', JSON.stringify(listed), asking);
  };
  const asked = [await infer({}, ASKING), await infer({ parameters: { timing: true } }, {}), await rank(ASKING)];
  for (const header of asked) {
    const { total, read, decode, predict, encode } = parseServerTiming(header!)!;
    expect(predict).toBeGreaterThan(0);
    // Each is rounded to a microsecond.
    expect(read + decode + predict + encode).toBeLessThanOrEqual(total + 0.003);
  }
  const silent = [
    await infer({}, {}),
    await infer({ parameters: { timing: false } }, {}),
    await infer({}, { 'x-terabag-timing': '0' }),
    await rank({}),
  ];
  expect(silent).toEqual([null, null, null, null]);
});
