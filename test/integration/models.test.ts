import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { DEFAULT_SCORES, verifyScores } from '../../src/cli/verify-scores.js';
import { connect, launchCluster, openLocal, type Prediction, type Predictor, type PredictRequest } from '../../src/index.js';
import { requestsOfFile } from '../../src/lab/requests/request-file.js';
import { readModelSpec, verifyBundle } from '../../src/model/bundle.js';
import { capacityPlan } from '../reference/plans.js';

/** Models that PyTorch trained on real data and python/ exported, with PyTorch's scores beside them: test/fixtures/models/make.py. */
const MODELS = fileURLToPath(new URL('../fixtures/models/', import.meta.url));
const names = readdirSync(MODELS, { withFileTypes: true }).flatMap((entry) =>
  entry.isDirectory() && !entry.name.startsWith('__') ? [entry.name] : [],
);
const TOLERANCE = 1e-5;

async function readAll(bundle: string): Promise<PredictRequest[]> {
  const requests: PredictRequest[] = [];
  for await (const request of requestsOfFile(join(bundle, 'check', 'requests.jsonl'))) requests.push(request);
  return requests;
}

const predictAll = (predictor: Predictor, requests: readonly PredictRequest[]): Promise<Prediction[]> =>
  Promise.all(requests.map((request) => predictor.predict(request, { deadlineMs: 30_000 })));

const values = ({ scores, outputs }: Prediction): object => ({ scores, ...outputs });

describe.each(names)('%s', (name) => {
  const bundle = join(MODELS, name);

  test('is sound, and gives the scores of PyTorch', async () => {
    expect(await verifyBundle(bundle)).toEqual([]);
    for (const { name: output, compared, maxRelative, worst } of await verifyScores(bundle, join(bundle, DEFAULT_SCORES))) {
      expect(compared).toBeGreaterThan(0);
      expect(maxRelative, `${output}: ${JSON.stringify(worst)}`).toBeLessThan(TOLERANCE);
    }
  });

  test.each([1, 2, 4])('%i shards give the bits of the local predictor', async (shards) => {
    const requests = await readAll(bundle);
    const local = await openLocal(bundle);
    const expected = await predictAll(local, requests);
    await local.close();
    const cluster = await launchCluster(capacityPlan(await readModelSpec(bundle), shards), {
      bundle,
      ephemeralPorts: true,
      logLevel: 'error',
    });
    try {
      const predictor = await connect(cluster.plan, { bundle });
      try {
        expect((await predictAll(predictor, requests)).map(values)).toEqual(expected.map(values));
      } finally {
        await predictor.close();
      }
    } finally {
      await cluster.stop();
    }
  });
});
