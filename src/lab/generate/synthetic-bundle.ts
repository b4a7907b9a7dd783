import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { TerabagError } from '../../errors.js';
import { DENSE_FILE, finishBundle } from '../../model/bundle.js';
import { dtypeOf } from '../../model/formats.js';
import { type FileSpec, type ModelSpec, modelSchema } from '../../model/spec.js';
import { PAGE_BYTES, writeSafetensors } from '../../tables/safetensors.js';
import { type ModelShape, shapeBytes, type TableShape, tablesOf } from './model-shape.js';
import { denseTensors, describeShape } from './synthetic-net.js';
import { randomRows, SeededNumbers } from './synthetic-values.js';

/** Rows in [-1/8, 1/8): dot products of dim 64 stay of the order of 1, and scores off the ends of the sigmoid. */
const ROW_EXPONENT = -3;
/** Checksums of one table are made while others are written. */
const TABLES_AT_ONCE = 3;

/**
 * Writes a bundle of the shape with values that follow from its seed; streams, so that memory stays small. dir must not hold a bundle.
 * model.json comes last. The signal ends it between two pieces of a table.
 */
export async function writeSyntheticBundle(
  dir: string,
  shape: ModelShape,
  onProgress: (doneBytes: number, totalBytes: number) => void = () => undefined,
  signal?: AbortSignal,
): Promise<ModelSpec> {
  await mkdir(join(dir, 'tables'), { recursive: true });
  const total = shapeBytes(shape);
  let done = 0;
  const onBytes = (bytes: number): void => {
    if (signal?.aborted) throw new TerabagError('aborted', `writing was aborted: ${dir}`, { path: dir });
    done += bytes;
    onProgress(done, total);
  };
  const tables = [...tablesOf(shape).entries()];
  const sums: FileSpec[] = new Array(tables.length);
  const waiting = tables.values();
  const write = async (): Promise<void> => {
    for (const [index, table] of waiting) {
      sums[index] = await writeTable(join(dir, tableFile(table)), table, shape.seed * 1000 + index, onBytes);
    }
  };
  const writers = await Promise.allSettled(Array.from({ length: TABLES_AT_ONCE }, write));
  for (const writer of writers) if (writer.status === 'rejected') throw writer.reason;
  const files: Record<string, FileSpec> = Object.fromEntries(tables.map(([index, table]) => [tableFile(table), sums[index] as FileSpec]));
  files[DENSE_FILE] = await writeSafetensors(join(dir, DENSE_FILE), denseTensors(shape));
  const spec = modelSchema.parse({ ...describeShape(shape), files });
  await finishBundle(dir, spec);
  return spec;
}

const tableFile = ({ name }: TableShape): string => `tables/${name}.safetensors`;

function writeTable(path: string, { rows, dim, format }: TableShape, seed: number, onBytes: (bytes: number) => void): Promise<FileSpec> {
  const data = randomRows(format, rows * dim, ROW_EXPONENT, new SeededNumbers(seed), onBytes);
  return writeSafetensors(path, [{ name: 'weight', dtype: dtypeOf(format), shape: [rows, dim], data }], { align: PAGE_BYTES });
}
