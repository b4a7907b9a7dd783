import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { DEFAULT_COSTS, openModel, PlanPredictor, planAuto, predictPlan, profileFromSpec } from '../../../src/index.js';
import { writeSmallModel } from '../../reference/small-model.js';

test('a model is opened without its tables, for plans and their prediction', async () => {
  const { dir } = await writeSmallModel(3);
  try {
    await rm(join(dir, 'tables'), { recursive: true });
    const model = await openModel(dir);
    expect(model).toMatchObject({ dir, hash: expect.stringMatching(/^[0-9a-f]{64}$/) });
    const profile = profileFromSpec(model.spec);
    const auto = planAuto(new PlanPredictor(model, profile, DEFAULT_COSTS), model.hash, { shards: 2, objective: 'cpu', localBytes: 0 });
    expect(predictPlan(model, auto.plan, profile, DEFAULT_COSTS)).toEqual(auto.prediction);
  } finally {
    await rm(dir, { recursive: true });
  }
});

test('dense weights that are damaged, cut short or missing are refused', async () => {
  const { dir } = await writeSmallModel(3);
  try {
    const path = join(dir, 'dense.safetensors');
    const bytes = await readFile(path);
    bytes[bytes.length - 1] = (bytes.at(-1) as number) ^ 0x80;
    await writeFile(path, bytes);
    await expect(openModel(dir)).rejects.toMatchObject({ code: 'checksum_mismatch', details: { file: 'dense.safetensors' } });
    await writeFile(path, bytes.subarray(0, -4));
    await expect(openModel(dir)).rejects.toMatchObject({ code: 'bad_table' });
    await rm(path);
    await expect(openModel(dir)).rejects.toMatchObject({ code: 'bad_table', details: { file: 'dense.safetensors' } });
  } finally {
    await rm(dir, { recursive: true });
  }
});
