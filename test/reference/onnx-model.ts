import { existsSync } from 'node:fs';
import { copyFile, mkdir, mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { DENSE_FILE, readModelSpec, writeModelJson } from '../../src/model/bundle.js';
import type { ModelSpec, OnnxSpec } from '../../src/model/spec.js';
import { checksumFile } from '../../src/tables/checksum.js';
import { readSafetensorsHeader, readTensor } from '../../src/tables/safetensors.js';
import { type SmallModel, writeSmallModel } from './small-model.js';

/** The directory of onnxruntime-node: that of TERABAG_ONNXRUNTIME, or where npm installed it here; null when it is missing. */
export function onnxRuntimeDirectory(): string | null {
  const named = process.env['TERABAG_ONNXRUNTIME'];
  if (named) return existsSync(join(named, 'dist', 'index.js')) ? named : null;
  try {
    return dirname(createRequire(import.meta.url).resolve('onnxruntime-node/package.json'));
  } catch {
    return null;
  }
}

/** For the names of tests that are left out. */
export const NEEDS_RUNTIME = 'needs onnxruntime-node: npm run test:onnx';

export const onnxFixture = (file: string): string => join(import.meta.dirname, '..', 'fixtures', 'onnx', file);

/** The small model's dense part as layers, with the weights of dlrm.onnx; the same with dlrm.onnx; and how both are worked out in float64. */
export interface OnnxModels extends SmallModel {
  readonly onnxDir: string;
}

const VECTORS = ['sum', 'mean', 'weighted'] as const;
export const DLRM: OnnxSpec = {
  file: 'dense.onnx',
  inputs: ['dense', ...VECTORS].map((name) => ({ name, value: name })),
  outputs: [
    { name: 'score', layer: 'top', dim: 1 },
    { name: 'logit', layer: 'logit', dim: 1 },
  ],
};

export async function writeOnnxModels(seed: number): Promise<OnnxModels> {
  const { dir, tables } = await writeSmallModel(seed);
  const header = await readSafetensorsHeader(onnxFixture('dense.safetensors'));
  const weights: [string, { shape: number[]; data: Float32Array }][] = [];
  for (const [name, tensor] of header.tensors)
    weights.push([name, { shape: [...tensor.shape], data: new Float32Array((await readTensor(header, tensor)).buffer) }]);
  const path = join(dir, DENSE_FILE);
  await copyFile(onnxFixture('dense.safetensors'), path);
  const spec = await readModelSpec(dir);
  await writeModelJson(dir, { ...spec, files: { ...spec.files, [DENSE_FILE]: await checksumFile(path) } });
  return { dir, tables, weights: new Map(weights), onnxDir: await withOnnx(dir, onnxFixture('dlrm.onnx'), DLRM) };
}

/** A copy of a bundle whose dense part is an ONNX model. */
export async function withOnnx(
  dir: string,
  onnxFile: string | Uint8Array,
  onnx: OnnxSpec,
  [output = onnx.outputs[0]?.layer ?? '', ...outputs]: readonly string[] = [],
): Promise<string> {
  const copy = await mkdtemp(join(tmpdir(), 'terabag-test-'));
  const spec = await readModelSpec(dir);
  const files = { ...spec.files };
  delete files[DENSE_FILE];
  for (const file of Object.keys(files)) {
    await mkdir(dirname(join(copy, file)), { recursive: true });
    await copyFile(join(dir, file), join(copy, file));
  }
  const path = join(copy, onnx.file);
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, typeof onnxFile === 'string' ? await readFile(onnxFile) : onnxFile);
  const nets: ModelSpec['nets'] = spec.nets.map((net) => ({
    ...net,
    layers: net.layers.filter(({ type }) => type === 'embedding_bag' || type === 'embedding_sequence'),
  }));
  await writeModelJson(copy, {
    ...spec,
    nets,
    onnx,
    output,
    ...(outputs.length > 0 && { outputs }),
    files: { ...files, [onnx.file]: await checksumFile(path) },
  });
  return copy;
}

/** One that reads the dense feature alone. */
export const denseOnly = (outputs = [{ name: 'score', layer: 'top', dim: 1 }]): OnnxSpec => ({
  file: 'dense.onnx',
  inputs: [{ name: 'dense', value: 'dense' }],
  outputs,
});
