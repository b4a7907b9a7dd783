import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import { DEFAULT_SCORES, verifyScores } from '../../src/cli/verify-scores.js';
import { connect, launchCluster, openLocal, type Prediction, type Predictor, type PredictRequest } from '../../src/index.js';
import { requestsOfFile } from '../../src/lab/requests/request-file.js';
import { readModelSpec, verifyBundle } from '../../src/model/bundle.js';
import { capacityPlan } from './plans.js';

/** Models that PyTorch trained on real data and python/ exported, with PyTorch's scores beside them: test/fixtures/models/make.py. */
const MODELS = join(import.meta.dirname, '..', 'fixtures', 'models');
const TOLERANCE = 1e-5;

export const bundleOf = (name: string): string => join(MODELS, name);

/** Names of those whose dense part is layers, or ONNX. */
export const exportedModels = (dense: 'layers' | 'onnx'): string[] =>
  readdirSync(MODELS, { withFileTypes: true }).flatMap((entry) => {
    if (!entry.isDirectory() || entry.name.startsWith('__')) return [];
    const spec = JSON.parse(readFileSync(join(MODELS, entry.name, 'model.json'), 'utf8')) as object;
    return 'onnx' in spec === (dense === 'onnx') ? [entry.name] : [];
  });

export async function expectScoresOfPyTorch(bundle: string): Promise<void> {
  expect(await verifyBundle(bundle)).toEqual([]);
  for (const { name: output, compared, maxRelative, worst } of await verifyScores(bundle, join(bundle, DEFAULT_SCORES))) {
    expect(compared).toBeGreaterThan(0);
    expect(maxRelative, `${output}: ${JSON.stringify(worst)}`).toBeLessThan(TOLERANCE);
  }
}

async function readAll(bundle: string): Promise<PredictRequest[]> {
  const requests: PredictRequest[] = [];
  for await (const request of requestsOfFile(join(bundle, 'check', 'requests.jsonl'))) requests.push(request);
  return requests;
}

const predictAll = (predictor: Predictor, requests: readonly PredictRequest[]): Promise<Prediction[]> =>
  Promise.all(requests.map((request) => predictor.predict(request, { deadlineMs: 30_000 })));

const values = ({ scores, outputs }: Prediction): object => ({ scores, ...outputs });

/** So many shards give the bits of the local predictor. */
export async function expectSameBits(bundle: string, shards: number): Promise<void> {
  const requests = await readAll(bundle);
  const local = await openLocal(bundle, { deadlineMs: 10_000 });
  const expected = await predictAll(local, requests);
  await local.close();
  const cluster = await launchCluster(capacityPlan(await readModelSpec(bundle), shards), {
    bundle,
    ephemeralPorts: true,
    logLevel: 'error',
  });
  try {
    const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle });
    try {
      expect((await predictAll(predictor, requests)).map(values)).toEqual(expected.map(values));
    } finally {
      await predictor.close();
    }
  } finally {
    await cluster.stop();
  }
}
