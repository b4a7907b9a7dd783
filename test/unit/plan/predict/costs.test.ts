import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Costs, readCosts, writeCosts } from '../../../../src/plan/predict/costs.js';
import { DEFAULT_COSTS } from '../../../../src/plan/predict/default-costs.js';
import { predictPlan } from '../../../../src/plan/predict/predict-plan.js';
import { profileFromSpec } from '../../../../src/plan/profile/profile-from-spec.js';
import { capacityPlan } from '../../../reference/plans.js';
import { bagOf, bagsOnly, specOf, table } from '../../../reference/specs.js';

let dir: string;
let path: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-unit-'));
  path = join(dir, 'costs.json');
});
afterAll(() => rm(dir, { recursive: true }));

/** Costs with one value replaced. */
function withValue(field: string, value: unknown, of: Costs = DEFAULT_COSTS): Costs {
  const costs = structuredClone(of) as unknown as Record<string, unknown>;
  const keys = field.split('.');
  const last = keys.pop() as string;
  const parent = keys.reduce((at, key) => at[key] as Record<string, unknown>, costs);
  parent[last] = value;
  return costs as unknown as Costs;
}

const numbersOf = (value: unknown, at: string[] = []): string[] =>
  typeof value === 'number'
    ? [at.join('.')]
    : typeof value === 'object' && value !== null
      ? Object.entries(value).flatMap(([key, held]) => numbersOf(held, [...at, key]))
      : [];
const FIELDS = numbersOf(DEFAULT_COSTS);

test('costs read back', async () => {
  await writeCosts(path, DEFAULT_COSTS);
  expect(await readCosts(path)).toEqual(DEFAULT_COSTS);
});

test.each(FIELDS)('%s has bounds, and what is beyond is refused by name, written or read', async (field) => {
  for (const value of [-1, 1e308, Number.NaN, Number.POSITIVE_INFINITY, '1']) {
    const costs = withValue(field, value);
    const refusal = { code: 'invalid_argument', details: { path, field }, message: expect.stringMatching(`^costs: ${field}: `) };
    await expect(writeCosts(path, costs)).rejects.toMatchObject(refusal);
    // JSON has null for what is not finite: shared cores may be that.
    if (JSON.stringify(value) === 'null') continue;
    await writeFile(path, JSON.stringify(costs));
    await expect(readCosts(path)).rejects.toMatchObject(refusal);
  }
});

test('the largest figures of costs and model that are taken give finite predictions', async () => {
  const most = 2 ** 32 - 1;
  const spec = specOf([table('a', Number.MAX_SAFE_INTEGER, 65_536)], [{ name: 'n', layers: [bagOf('b', 'a', { poolingFactor: most })] }]);
  const planned = { spec, model: bagsOnly(spec) };
  let costs: Costs = { ...DEFAULT_COSTS, sharedCores: 1 };
  for (const field of FIELDS) if (/(ns|us|ns[A-Z]\w+|us[A-Z]\w+|Ns|Us)$/.test(field)) costs = withValue(field, 1e9, costs);
  await writeCosts(path, costs);
  const { cpuUs, p50Us, p99Us } = predictPlan(planned, capacityPlan(spec, 2), profileFromSpec(spec), await readCosts(path));
  for (const us of [cpuUs, p50Us, p99Us]) expect(us).toSatisfy(Number.isFinite);
});
