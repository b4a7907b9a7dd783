import { beforeAll, describe, expect, test } from 'vitest';
import { connect, launchCluster, openLocal, type Predictor } from '../../src/index.js';
import { readModelSpec, verifyBundle } from '../../src/model/bundle.js';
import {
  auc,
  categoryRows,
  FIXTURE,
  type Impression,
  missingData,
  ReferenceModel,
  readImpressions,
  readMetrics,
  readTensors,
  readVocabulary,
  type Vocabulary,
} from '../reference/open-bandit.js';
import { capacityPlan } from '../reference/plans.js';

const LANES = 32;
const TOLERANCE = 1e-5;

test('a bundle that Python wrote is sound', async () => {
  expect(await verifyBundle(FIXTURE)).toEqual([]);
});

const missing = missingData();
if (missing.length > 0) console.warn(`open-bandit tests are skipped, their data is missing: ${missing.join(', ')}`);

describe.skipIf(missing.length > 0)('a DLRM that PyTorch trained on the Open Bandit sample', () => {
  let vocabulary: Vocabulary;
  let impressions: Impression[];
  /** Scores of all candidates of all impressions, from the local predictor. */
  let local: Float32Array[];
  let shown: Float32Array;

  beforeAll(async () => {
    vocabulary = await readVocabulary();
    impressions = await readImpressions(vocabulary);
    const predictor = await openLocal(FIXTURE, { deadlineMs: 10_000 });
    local = Array.from(impressions, () => new Float32Array());
    await predictAll(predictor, (scores, n) => {
      local[n] = scores;
    });
    await predictor.close();
    shown = Float32Array.from(impressions, (impression, n) => local[n]?.[impression.shown] ?? Number.NaN);
  });

  async function predictAll(predictor: Predictor, take: (scores: Float32Array, n: number) => void): Promise<void> {
    let sent = 0;
    const lane = async (): Promise<void> => {
      while (sent < impressions.length) {
        const n = sent++;
        take((await predictor.predict((impressions[n] as Impression).request, { deadlineMs: 30_000 })).scores, n);
      }
    };
    await Promise.all(Array.from({ length: LANES }, lane));
  }

  /** The impression whose score is furthest from what is expected, relative to it. */
  function furthest(expected: (n: number) => number): { n: number; relative: number } {
    let worst = { n: -1, relative: 0 };
    shown.forEach((score, n) => {
      const difference = Math.abs(score - expected(n)) / Math.abs(expected(n));
      // No number compares as larger than NaN, which must not pass.
      const relative = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference;
      if (relative > worst.relative) worst = { n, relative };
    });
    return worst;
  }

  test('the requests are 40,000, and item categories have the same rows in the files of both policies', async () => {
    expect(impressions).toHaveLength(40_000);
    for (const policy of ['bts', 'random']) {
      const { item_feature_1, item_feature_2, item_feature_3 } = vocabulary;
      expect(await categoryRows(policy)).toEqual({ item_feature_1, item_feature_2, item_feature_3 });
    }
  });

  test('the scores of all items shown are those of PyTorch', async () => {
    const { shape, data } = (await readTensors('scores.safetensors')).get('scores') ?? { shape: [], data: new Float64Array() };
    expect(shape).toEqual([impressions.length]);
    const worst = furthest((n) => data[n] as number);
    expect(worst.relative, `impression ${worst.n}`).toBeLessThan(TOLERANCE);
  });

  test('the scores of all items shown are those of a float64 reference', async () => {
    const model = await ReferenceModel.read();
    const worst = furthest((n) => {
      const { request, shown: item } = impressions[n] as Impression;
      return model.score(request, item);
    });
    expect(worst.relative, `impression ${worst.n}`).toBeLessThan(TOLERANCE);
  });

  test('the AUC of the given clicks is what PyTorch measured, over all logs and for each', async () => {
    const metrics = await readMetrics();
    const of = (log: string | null) => {
      const chosen = impressions
        .map((impression, n) => ({ n, ...impression }))
        .filter((impression) => (log ?? impression.log) === impression.log);
      const clicked = chosen.map((impression) => impression.clicked);
      return {
        impressions: chosen.length,
        clicks: clicked.filter(Boolean).length,
        auc: auc(
          chosen.map(({ n }) => shown[n] as number),
          clicked,
        ),
      };
    };
    const rounded = ({ auc: value, ...counts }: ReturnType<typeof of>) => ({ ...counts, auc: value.toFixed(6) });
    const { impressions: count, clicks, auc: total, logs } = metrics;
    expect(rounded(of(null))).toEqual(rounded({ impressions: count, clicks, auc: total }));
    for (const [log, expected] of Object.entries(logs)) expect(rounded(of(log)), log).toEqual(rounded(expected));
  });

  test.each([1, 2, 4])('%i shards give the bits of the local predictor for all candidates of all requests', async (shards) => {
    const spec = await readModelSpec(FIXTURE);
    const cluster = await launchCluster(capacityPlan(spec, shards), {
      bundle: FIXTURE,
      ephemeralPorts: true,
      logLevel: 'error',
    });
    try {
      expect(cluster.shards).toHaveLength(shards);
      const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle: FIXTURE });
      try {
        const different: number[] = [];
        await predictAll(predictor, (scores, n) => {
          if (!sameBits(scores, local[n] as Float32Array)) different.push(n);
        });
        expect(different).toEqual([]);
      } finally {
        await predictor.close();
      }
    } finally {
      await cluster.stop();
    }
  });
});

function sameBits(a: Float32Array, b: Float32Array): boolean {
  return Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(Buffer.from(b.buffer, b.byteOffset, b.byteLength));
}
