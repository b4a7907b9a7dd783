import { mkdir, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { writeModelJson } from '../../src/model/bundle.js';
import { type RowFormat, rowBytes } from '../../src/model/formats.js';
import { modelHash } from '../../src/model/hash.js';
import { type ModelSpec, modelSchema } from '../../src/model/spec.js';
import type { Plan } from '../../src/plan/file/plan.js';
import { readSafetensorsHeader, readTensor, writeSafetensors } from '../../src/tables/safetensors.js';
import { random } from './small-model.js';

export interface TableOnDisk {
  readonly name: string;
  readonly rows: number;
  readonly dim: number;
  readonly format: RowFormat;
  readonly file: string;
  readonly tensor: string;
}

export interface RawModel {
  readonly dir: string;
  readonly spec: ModelSpec;
  readonly hash: string;
  /** By file and tensor. */
  readonly bytes: ReadonlyMap<string, Uint8Array>;
}

const DTYPES: Record<RowFormat, string> = { fp32: 'F32', fp16: 'F16', bf16: 'BF16', int8: 'U8', int8_fp16: 'U8', int4: 'U8' };

const DENSE_FILE = 'dense.safetensors';

/**
 * A bundle of tables of any bytes, for what moves rows and never reads their values. Tables may share files and tensors, and those of fp32 may lie
 * beside the dense weights.
 */
export async function writeRawModel(tables: readonly TableOnDisk[], seed = 1): Promise<RawModel> {
  const dir = await mkdtemp(join(tmpdir(), 'terabag-raw-'));
  const next = random(seed);
  const bytes = new Map<string, Uint8Array>();
  const files: Record<string, unknown> = {};
  for (const file of new Set([...tables.map((table) => table.file), DENSE_FILE])) {
    await mkdir(join(dir, file, '..'), { recursive: true });
    const tensors = [...new Map(tables.filter((table) => table.file === file).map((table) => [table.tensor, table])).values()];
    const metadata: Record<string, string> = { maker: 'test' };
    const written = tensors.map(({ tensor, rows, dim, format }) => {
      const width = rowBytes(format, dim);
      const data = Uint8Array.from({ length: rows * width }, () => next() * 256);
      bytes.set(`${file} ${tensor}`, data);
      if (DTYPES[format] === 'U8') metadata[`${tensor}.row_format`] = `${format} dim ${dim}`;
      return { name: tensor, dtype: DTYPES[format], shape: [rows, DTYPES[format] === 'U8' ? width : dim], data };
    });
    if (file === DENSE_FILE) written.push({ name: 'w', dtype: 'F32', shape: [1, 1], data: new Uint8Array(4) });
    files[file] = await writeSafetensors(join(dir, file), written, { metadata });
  }
  const layers = [
    { type: 'fc', name: 'top', input: 'x', weight: 'w' },
    ...tables.map(({ name }) => ({ type: 'embedding_bag', name: `bag of ${name}`, table: name })),
  ];
  const nets = [{ name: 'net', layers }];
  const spec = modelSchema.parse({
    terabag: 1,
    name: 'raw',
    version: '1',
    dense: [{ name: 'x', dim: 1 }],
    tables,
    nets,
    output: 'top',
    files,
  });
  await writeModelJson(dir, spec);
  return { dir, spec, hash: modelHash(spec), bytes };
}

/** parts: by table, in the order of the spec. */
export function planOf(
  { spec, hash }: Pick<RawModel, 'spec' | 'hash'>,
  shards: readonly string[],
  parts: readonly (readonly string[])[],
): Plan {
  return {
    terabagPlan: 1,
    strategy: 'by-hand',
    model: { name: spec.name, version: spec.version, hash },
    shards: shards.map((name, at) => ({ name, endpoints: [`tcp://127.0.0.1:${7400 + at}`] })),
    tables: spec.tables.map(({ name }, at) => ({ table: name, parts: [...parts[at]!] })),
  };
}

/** What of a table's bytes part p of k is, row by row. */
export function naivePart(bytes: Uint8Array, width: number, part: number, parts: number): number[] {
  const found: number[] = [];
  for (let row = 0; row < bytes.length / width; row++)
    if (row % parts === part) found.push(...bytes.subarray(row * width, (row + 1) * width));
  return found;
}

export async function tensorBytes(
  path: string,
  tensor: string,
): Promise<{ bytes: number[]; byteOffset: number; metadata: Readonly<Record<string, string>> }> {
  const header = await readSafetensorsHeader(path);
  const info = header.tensors.get(tensor)!;
  return { bytes: [...(await readTensor(header, info))], byteOffset: info.byteOffset, metadata: header.metadata };
}
