import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { DENSE_FILE, DTYPES, writeModelJson } from '../model/bundle.js';
import { type FileSpec, type ModelSpec, modelSchema } from '../model/spec.js';
import { type TensorToWrite, writeSafetensors } from '../tables/safetensors.js';
import { type ModelShape, shapeBytes } from './model-shape.js';
import { randomRows, SeededNumbers } from './synthetic-values.js';

const PAGE_BYTES = 4096;
/** Rows in [-1/8, 1/8): dot products of dim 64 stay of the order of 1, and scores off the ends of the sigmoid. */
const ROW_EXPONENT = -3;

/** Writes a bundle of the shape with values that follow from its seed; streams, so that memory stays small. dir must not hold a bundle. */
export async function writeSyntheticBundle(
  dir: string,
  shape: ModelShape,
  onProgress: (doneBytes: number, totalBytes: number) => void = () => undefined,
): Promise<ModelSpec> {
  await mkdir(join(dir, 'tables'), { recursive: true });
  const files: Record<string, FileSpec> = {};
  const total = shapeBytes(shape);
  let done = 0;
  for (const [index, table] of shape.tables.entries()) {
    const numbers = new SeededNumbers(shape.seed * 1000 + index);
    const data = randomRows(table.format, table.rows * table.dim, ROW_EXPONENT, numbers, (bytes) => {
      done += bytes;
      onProgress(done, total);
    });
    const file = `tables/${table.name}.safetensors`;
    const tensor = { name: 'weight', dtype: DTYPES[table.format], shape: [table.rows, table.dim], data };
    files[file] = await writeSafetensors(join(dir, file), [tensor], { align: PAGE_BYTES });
  }
  files[DENSE_FILE] = await writeSafetensors(join(dir, DENSE_FILE), denseTensors(shape));
  const spec = modelSchema.parse({ ...describe(shape), files });
  await writeModelJson(dir, spec);
  return spec;
}

/** Fully connected layers of an MLP with their input and output dims. */
function mlp(prefix: string, inputDim: number, outputs: readonly number[]): { name: string; inputDim: number; outputDim: number }[] {
  return outputs.map((outputDim, layer) => ({ name: `${prefix}_${layer}`, inputDim: outputs[layer - 1] ?? inputDim, outputDim }));
}

function interactionDim(shape: ModelShape): number {
  const vectors = shape.tables.length + 1;
  return (shape.bottomMlp.at(-1) ?? 0) + (vectors * (vectors - 1)) / 2;
}

const layersOf = (shape: ModelShape) => ({
  bottom: mlp('bottom', shape.denseDim, shape.bottomMlp),
  top: mlp('top', interactionDim(shape), shape.topMlp),
});

/** Uniform in +-sqrt(3 / inputs): unit variance of the outputs for unit variance of the inputs. */
function denseTensors(shape: ModelShape): TensorToWrite[] {
  const numbers = new SeededNumbers(shape.seed);
  const { bottom, top } = layersOf(shape);
  return [...bottom, ...top].flatMap(({ name, inputDim, outputDim }) => {
    const weight = new Float32Array(outputDim * inputDim);
    const bias = new Float32Array(outputDim);
    numbers.fill(weight, Math.sqrt(3 / inputDim));
    numbers.fill(bias, 0.1);
    return [
      { name: `${name}.weight`, dtype: 'F32', shape: [outputDim, inputDim], data: new Uint8Array(weight.buffer) },
      { name: `${name}.bias`, dtype: 'F32', shape: [outputDim], data: new Uint8Array(bias.buffer) },
    ];
  });
}

function describe(shape: ModelShape): object {
  const { bottom, top } = layersOf(shape);
  const fc = (layers: typeof bottom, input: string, last: 'relu' | 'sigmoid'): object[] =>
    layers.map(({ name }, layer) => ({
      type: 'fc',
      name,
      input: layers[layer - 1]?.name ?? input,
      weight: `${name}.weight`,
      bias: `${name}.bias`,
      activation: layer === layers.length - 1 ? last : 'relu',
    }));
  const bags = shape.tables.map(({ name, pooling, weighted }) => ({
    type: 'embedding_bag',
    name: `${name}_bag`,
    table: name,
    pooling,
    weighted,
  }));
  const inputs = [bottom.at(-1)?.name, ...bags.map(({ name }) => name)];
  return {
    terabag: 1,
    name: shape.name,
    version: String(shape.seed),
    dense: [{ name: 'dense', dim: shape.denseDim }],
    tables: shape.tables.map(({ name, rows, dim, format }) => ({
      name,
      rows,
      dim,
      format,
      file: `tables/${name}.safetensors`,
      tensor: 'weight',
    })),
    nets: [
      {
        name: 'dlrm',
        layers: [
          ...bags,
          ...fc(bottom, 'dense', 'relu'),
          { type: 'dot_interaction', name: 'interaction', inputs },
          ...fc(top, 'interaction', 'sigmoid'),
        ],
      },
    ],
    output: top.at(-1)?.name,
  };
}
