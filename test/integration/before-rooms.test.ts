import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { native } from '../../src/engine/native.js';
import {
  connect,
  DEFAULT_COSTS,
  launchCluster,
  modelHash,
  openLocal,
  openModel,
  type Plan,
  type Predictor,
  type PredictRequest,
  predictPlan,
  publish,
  readCosts,
  readModelSpec,
  readPlan,
  readProfile,
} from '../../src/index.js';
import { profileRequests, readRequests, writeRequests } from '../../src/lab/index.js';
import { verifyBundle } from '../../src/model/bundle.js';
import { verifyPublished } from '../../src/plan/file/publish/verify-published.js';

/** Files that an earlier version wrote, and the scores that it gave; make.mjs beside them says how. */
const FILES = fileURLToPath(new URL('../fixtures/before-rooms/', import.meta.url));
const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const at = (...names: string[]): string => join(FILES, ...names);

interface Scores {
  readonly local: string[];
  readonly sharded: string[];
}
const expected = JSON.parse(readFileSync(at('expected.json'), 'utf8')) as { hash: string; scores: Record<string, Scores> };
/** Those of these kernels; of kernels that the fixture's machine had not, null. */
const sameKernels = expected.scores[native.isa] ?? null;

let plan: Plan;
let dir: string;
beforeAll(async () => {
  plan = await readPlan(at('plan.json'));
  dir = await mkdtemp(join(tmpdir(), 'terabag-before-'));
});
afterAll(() => rm(dir, { recursive: true }));

async function requestsOf(file: string): Promise<PredictRequest[]> {
  const requests: PredictRequest[] = [];
  for await (const read of readRequests(at(file))) {
    if ('error' in read) throw read.error;
    requests.push(read.request);
  }
  return requests;
}

const hex = (scores: Float32Array): string => Buffer.from(scores.buffer, scores.byteOffset, scores.byteLength).toString('hex');
const floats = (bits: string): number[] => {
  const bytes = Buffer.from(bits, 'hex');
  return Array.from({ length: bytes.length / 4 }, (_, score) => bytes.readFloatLE(4 * score));
};

/** Bit for bit with the same kernels; with others, to what rounding of so few additions may differ by. */
async function expectScores(predictor: Predictor, how: keyof Scores, requests: readonly PredictRequest[]): Promise<void> {
  expect(predictor.modelHash).toBe(expected.hash);
  const scores: Float32Array[] = [];
  for (const request of requests) scores.push((await predictor.predict(request)).scores);
  if (sameKernels !== null) expect(scores.map(hex)).toEqual(sameKernels[how]);
  const wanted = expected.scores['scalar']![how].map(floats);
  expect(scores.map(({ length }) => length)).toEqual(wanted.map(({ length }) => length));
  for (const [r, of] of scores.entries()) for (const [s, score] of of.entries()) expect(score).toBeCloseTo(wanted[r]![s]!, 6);
}

test('a bundle has the hash that it had, is sound, and scores recorded requests bit for bit', async () => {
  const spec = await readModelSpec(at('model'));
  expect(modelHash(spec)).toBe(expected.hash);
  expect(await verifyBundle(at('model'))).toEqual([]);
  expect(new Set(spec.tables.map(({ format }) => format))).toEqual(new Set(['fp32', 'int8', 'int4']));
  for (const file of ['requests.jsonl', 'requests.safetensors']) {
    const requests = await requestsOf(file);
    expect(requests).toHaveLength(8);
    const predictor = await openLocal(at('model'), { deadlineMs: 10_000 });
    await expectScores(predictor, 'local', requests);
    await predictor.close();
  }
});

test.each(Object.keys(expected.scores))('with %s kernels, where they run, scores are those of the same kernels', (isa) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, 'predict', at('requests.jsonl'), '--bundle', at('model')], {
    env: { ...process.env, TERABAG_ISA: isa },
    encoding: 'utf8',
  });
  if (status !== 0) {
    expect(stderr).toMatch(/TERABAG_ISA names kernels that do not run here/);
    return;
  }
  const lines = stdout.trim().split('\n');
  expect(lines.map((line) => hex(Float32Array.from((JSON.parse(line) as { scores: number[] }).scores)))).toEqual(
    expected.scores[isa]!.local,
  );
});

test.each(['model', 'published'])(
  'shards of an earlier plan serve the %s directory, one table split by rows, bit for bit',
  async (bundle) => {
    const cluster = await launchCluster(plan, { bundle: at(bundle), ephemeralPorts: true, logLevel: 'error' });
    try {
      const predictor = await connect(cluster.plan, { deadlineMs: 10_000, bundle: bundle === 'model' ? at(bundle) : at(bundle, 'main') });
      await expectScores(predictor, 'sharded', await requestsOf('requests.safetensors'));
      await predictor.close();
    } finally {
      await cluster.stop();
    }
  },
);

test('what was published is sound, and is published alike today', async () => {
  expect(await verifyPublished(at('published'), at('model'))).toEqual([]);
  await publish(plan, at('model'), dir);
  for (const file of [
    'a/model.json',
    'a/tables/split.part-0-of-2.safetensors',
    'b/tables/split.part-1-of-2.safetensors',
    'main/model.json',
  ])
    expect(await readFile(join(dir, file), 'utf8'), file).toBe(await readFile(at('published', file), 'utf8'));
});

test('a profile and costs are read and predict a plan; the requests give the same profile, and are written alike', async () => {
  const profile = await readProfile(at('profile.json'));
  const costs = await readCosts(at('costs.json'));
  expect(costs).toEqual(DEFAULT_COSTS);
  const model = await openModel(at('model'));
  expect(predictPlan(model, plan, profile, costs).shards).toHaveLength(2);
  for (const file of ['requests.jsonl', 'requests.safetensors']) {
    expect(await profileRequests(model, at(file), { requests: 1000 })).toEqual({
      profile,
      fileRequests: 8,
      bad: { count: 0, first: null },
    });
    await writeRequests(join(dir, file), await requestsOf(file));
    expect((await readFile(join(dir, file))).equals(await readFile(at(file))), file).toBe(true);
  }
});
