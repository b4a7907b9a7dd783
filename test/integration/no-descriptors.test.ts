import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makePlan, modelHash, type Plan, packBundle, profileFromSpec, publish, readModelSpec, writePlan } from '../../src/index.js';
import { writeRequests } from '../../src/lab/index.js';
import { packFile } from '../../src/pack/pack-file.js';
import { verifyPublished } from '../../src/plan/file/publish/verify-published.js';
import { random, smallRequest, writeSmallModel } from '../reference/small-model.js';

let dir: string;
let bundle: string;
let plan: Plan;
const out = (name = 'out'): string => join(dir, name);

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'terabag-descriptors-'));
  ({ dir: bundle } = await writeSmallModel(61));
  const spec = await readModelSpec(bundle);
  plan = makePlan('capacity-balanced', spec, modelHash(spec), profileFromSpec(spec), { shards: 2 });
  await publish(plan, bundle, out('published'));
});
afterAll(() => {
  for (const path of [dir, bundle]) rmSync(path, { recursive: true });
});

/** More than any of these opens at a time. */
const ENOUGH = 12;

/** What the work ends with when the process has only so many file descriptors left, for 0, 1, 2, ... of them; null when it is done. Cleans up after each. */
async function withFewDescriptors(work: () => Promise<unknown>, cleanUp: () => Promise<void>): Promise<unknown[]> {
  const held: number[] = [];
  const ends: unknown[] = [];
  const takeAll = (): void => {
    try {
      for (;;) held.push(openSync('/dev/null', 'r'));
    } catch {
      // None is left.
    }
  };
  try {
    for (let free = 0; free <= ENOUGH; free++) {
      takeAll();
      for (let n = 0; n < free; n++) closeSync(held.pop() as number);
      ends.push(
        await work().then(
          () => null,
          (error: unknown) => error,
        ),
      );
      // Which takes descriptors itself.
      for (const file of held.splice(0)) closeSync(file);
      await cleanUp();
    }
  } finally {
    for (const file of held) closeSync(file);
  }
  return ends;
}

test.skipIf(process.platform !== 'linux').each<[string, () => Promise<unknown>]>([
  ['a plan', () => writePlan(out(), plan)],
  ['requests', () => writeRequests(out('out.jsonl'), [smallRequest(random(61), 3)])],
  ['an archive of requests', () => writeRequests(out('out.safetensors'), [smallRequest(random(61), 3)])],
  ['a packed file', () => packFile(join(bundle, 'tables/t0.safetensors'), out(), new Map([['weight', 'bf16']]))],
  ['a packed bundle', () => packBundle(bundle, out(), { format: 'bf16' })],
  ['published bundles', () => publish(plan, bundle, out())],
  ['published bundles again', () => publish(plan, bundle, out('published'))],
  ['what was published, compared', () => verifyPublished(out('published'), bundle)],
])('%s, written with few file descriptors left: overloaded, with the reason, until there are enough', async (_, write) => {
  const ends = await withFewDescriptors(write, () => rm(out(), { recursive: true, force: true }));
  const refusals = ends.filter((end) => end !== null);
  expect(ends.at(-1)).toBe(null);
  expect(refusals.length).toBeGreaterThan(0);
  for (const refusal of refusals)
    expect(refusal).toMatchObject({
      code: 'overloaded',
      message: expect.stringMatching(/EMFILE.*ulimit -n/),
      details: { reason: 'EMFILE', path: expect.any(String) },
    });
});
