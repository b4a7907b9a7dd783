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
  if (shape.cross !== undefined) return vectors * (shape.bottomMlp.at(-1) ?? 0);
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
  const tensor = (name: string, dims: number[], bound: number): TensorToWrite => {
    const values = new Float32Array(dims.reduce((product, dim) => product * dim, 1));
    numbers.fill(values, bound);
    return { name, dtype: 'F32', shape: dims, data: new Uint8Array(values.buffer) };
  };
  const mlps = [...bottom, ...top].flatMap(({ name, inputDim, outputDim }) => [
    tensor(`${name}.weight`, [outputDim, inputDim], Math.sqrt(3 / inputDim)),
    tensor(`${name}.bias`, [outputDim], 0.1),
  ]);
  const width = interactionDim(shape);
  const rank = shape.cross?.rank ?? 0;
  const crosses = crossNames(shape).flatMap((name) => [
    tensor(`${name}.weightV`, [rank, width], Math.sqrt(3 / width)),
    tensor(`${name}.weightU`, [width, rank], Math.sqrt(3 / rank)),
    tensor(`${name}.bias`, [width], 0.1),
  ]);
  return [...mlps, ...crosses];
}

const crossNames = (shape: ModelShape): string[] => Array.from({ length: shape.cross?.layers ?? 0 }, (_, layer) => `cross_${layer}`);

/** From the vectors to what the top MLP reads, which the last of them gives. */
function interactionLayers(shape: ModelShape, inputs: readonly (string | undefined)[]): object[] {
  if (shape.cross === undefined) return [{ type: 'dot_interaction', name: 'interaction', inputs }];
  const names = crossNames(shape);
  return [
    { type: 'concat', name: 'vectors', inputs },
    ...names.map((name, layer) => ({
      type: 'cross',
      name,
      inputs: ['vectors', names[layer - 1] ?? 'vectors'],
      weightU: `${name}.weightU`,
      weightV: `${name}.weightV`,
      bias: `${name}.bias`,
    })),
  ];
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
          ...interactionLayers(shape, inputs),
          ...fc(top, crossNames(shape).at(-1) ?? 'interaction', 'sigmoid'),
        ],
      },
    ],
    output: top.at(-1)?.name,
  };
}
