import { spawnSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { launchCluster, openLocal, type PredictRequest, writePlan } from '../../src/index.js';
import { writeRequests } from '../../src/lab/requests/request-file.js';
import { readModelSpec } from '../../src/model/bundle.js';
import { FIXTURE, missingData, readImpressions, readMetrics, readVocabulary } from '../reference/open-bandit.js';
import { capacityPlan } from '../reference/plans.js';
import { random, type SmallModel, smallRequest, writeSmallModel } from '../reference/small-model.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
let model: SmallModel;
let dir: string;
const labels: number[] = [];
const scores: number[] = [];

const terabag = (...args: string[]) => spawnSync(process.execPath, [main, ...args], { cwd: dir, encoding: 'utf8' });

beforeAll(async () => {
  model = await writeSmallModel(31);
  dir = await mkdtemp(join(tmpdir(), 'terabag-evaluate-'));
  const next = random(6);
  const requests = Array.from({ length: 30 }, (_, at): PredictRequest => smallRequest(next, 1 + (at % 5)));
  for (const file of ['requests.jsonl', 'requests.safetensors']) await writeRequests(join(dir, file), requests);
  const predictor = await openLocal(model.dir, { deadlineMs: 10_000 });
  for (const request of requests) scores.push(...(await predictor.predict(request)).scores);
  await predictor.close();
  // Likelier where the score is higher.
  for (const score of scores) labels.push(next() < score ** 2 ? 1 : 0);
  await writeFile(join(dir, 'labels.txt'), labels.map((label) => `${label}\n`).join(''));
});
afterAll(() => Promise.all([model.dir, dir].map((path) => rm(path, { recursive: true }))));

/** Over all pairs. */
function auc(): number {
  let [won, pairs] = [0, 0];
  scores.forEach((positive, p) => {
    scores.forEach((negative, n) => {
      if (labels[p] !== 1 || labels[n] !== 0) return;
      pairs++;
      won += positive > negative ? 1 : positive === negative ? 0.5 : 0;
    });
  });
  return won / pairs;
}

const evaluated = (...args: string[]) => {
  const { status, stdout, stderr } = terabag('evaluate', ...args, '--labels', 'labels.txt', '--json');
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return JSON.parse(stdout) as { accuracy: Record<string, { value: number; low: number; high: number }>; [field: string]: unknown };
};

test('the accuracy of the scores is told, of all files of requests, and from shards', async () => {
  const { seconds: _, requestFile: __, ...first } = evaluated('requests.jsonl', '--bundle', model.dir);
  expect(first.accuracy['auc']?.value).toBeCloseTo(auc(), 12);
  const positives = labels.reduce((sum, label) => sum + label, 0);
  expect(first).toMatchObject({
    requests: 30,
    items: labels.length,
    positives,
    baseRate: positives / labels.length,
    confidence: 0.95,
    seed: 1,
  });
  const loss = scores.reduce((sum, score, at) => sum - Math.log(labels[at] === 1 ? score : 1 - score), 0) / scores.length;
  expect(first.accuracy['logLoss']?.value).toBeCloseTo(loss, 9);
  const rate = positives / labels.length;
  expect(first.accuracy['ne']?.value).toBeCloseTo(loss / -(rate * Math.log(rate) + (1 - rate) * Math.log(1 - rate)), 9);
  const { seconds: ___, requestFile: ____, ...archive } = evaluated('requests.safetensors', '--bundle', model.dir);
  expect(archive).toEqual(first);
  const cluster = await launchCluster(capacityPlan(await readModelSpec(model.dir), 2), {
    bundle: model.dir,
    ephemeralPorts: true,
    logLevel: 'error',
  });
  try {
    await writePlan(join(dir, 'plan.json'), cluster.plan);
    const { accuracy } = evaluated('requests.jsonl', '--bundle', model.dir, '--plan', 'plan.json');
    expect(accuracy).toEqual(first.accuracy);
  } finally {
    await cluster.stop();
  }
});

test('people get a table', () => {
  const { status, stdout } = terabag('evaluate', 'requests.jsonl', '--bundle', model.dir, '--labels', 'labels.txt', '--confidence', '90%');
  expect(status).toBe(0);
  expect(stdout).toMatch(/^30 requests, 90 items with a label, \d+ positive \([\d.]+ %\)\n/);
  expect(stdout).toMatch(new RegExp(`AUC +${auc().toPrecision(6)} +0\\.\\d+ +0\\.\\d+`));
  expect(stdout).toMatch(/accuracy +value +90 % from +to/);
});

test('labels of one class, and those of other requests, are refused', async () => {
  await writeFile(join(dir, 'ones.txt'), labels.map(() => '1\n').join(''));
  const ones = terabag('evaluate', 'requests.jsonl', '--bundle', model.dir, '--labels', 'ones.txt');
  expect([ones.status, ones.stderr]).toEqual([1, expect.stringMatching(/both classes: 90 positive, 0 negative \(invalid_argument\)\n$/)]);
  await writeFile(join(dir, 'few.txt'), '1\n0\n');
  const few = terabag('evaluate', 'requests.jsonl', '--bundle', model.dir, '--labels', 'few.txt');
  expect([few.status, few.stderr]).toEqual([1, expect.stringMatching(/labels end before request 2: few.txt \(invalid_argument\)\n$/)]);
  expect(terabag('evaluate', 'requests.jsonl', '--bundle', model.dir).status).toBe(2);
  expect(terabag('evaluate', 'requests.jsonl', '--bundle', model.dir, '--labels', 'few.txt', '--confidence', '1').status).toBe(2);
});

test('of few requests of a class no intervals are told, and a warning says why', async () => {
  const [positive, negative] = [labels.indexOf(1), labels.indexOf(0)];
  const two = labels.map((label, at) => (at === positive || at === negative ? label : null));
  await writeFile(join(dir, 'two.txt'), two.map((label) => `${label}\n`).join(''));
  const args = ['evaluate', 'requests.jsonl', '--bundle', model.dir, '--labels', 'two.txt', '--against', model.dir];
  const told = terabag(...args);
  expect(told.stderr).toBe(
    'terabag: warning: too few requests for intervals, which take 10 of each class: 1 with a positive label, 1 with a negative one\n',
  );
  expect(told.stdout).toMatch(/^normalized entropy, of that of .*: \+0\.00 %$/m);
  const { accuracy, against } = JSON.parse(terabag(...args, '--json').stdout);
  expect([accuracy.auc.low, accuracy.auc.high, against.neRise.low]).toEqual([null, null, null]);
});

test('a file of labels that is not there is named', () => {
  const { status, stderr } = terabag('evaluate', 'requests.jsonl', '--bundle', model.dir, '--labels', 'none.txt');
  expect([status, stderr]).toEqual([1, expect.stringMatching(/labels cannot be read \(ENOENT\): none\.txt \(invalid_argument\)\n$/)]);
});

const LOG = 'bts-men';
const missing = missingData();
describe.skipIf(missing.length > 0)('the Open Bandit sample', () => {
  test('has the area under the curve that its training measured', async () => {
    const impressions = (await readImpressions(await readVocabulary())).filter(({ log }) => log === LOG);
    await writeRequests(
      join(dir, 'bandit.safetensors'),
      impressions.map(({ request }) => request as PredictRequest),
    );
    const labelled = impressions.map(({ clicked, shown, request }) => {
      const items = (request.sparse['item_id']?.offsets.length ?? 0) - 1;
      return `${JSON.stringify(Array.from({ length: items }, (_, item) => (item === shown ? Number(clicked) : null)))}\n`;
    });
    await writeFile(join(dir, 'bandit.jsonl'), labelled.join(''));
    const args = [
      'bandit.safetensors',
      '--bundle',
      FIXTURE,
      '--labels',
      'bandit.jsonl',
      '--resamples',
      '50',
      '--concurrency',
      '32',
      '--json',
    ];
    const { stdout, stderr } = terabag('evaluate', ...args);
    expect(stderr).toBe('');
    const { accuracy, requests, positives } = JSON.parse(stdout);
    const metrics = (await readMetrics()).logs[LOG];
    expect({ requests, positives }).toEqual({ requests: metrics?.impressions, positives: metrics?.clicks });
    expect(accuracy.auc.value).toBeCloseTo(metrics?.auc as number, 5);
  });
});
