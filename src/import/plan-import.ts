import { TerabagError } from '../errors.js';
import { dtypeOf, isPacked, PLAIN_FORMATS, type PlainFormat, type RowFormat, rowBytes, rowFormatInfo } from '../model/formats.js';
import { resolveModel } from '../model/graph.js';
import { modelSchema } from '../model/spec.js';
import { formatPath } from '../tables/json.js';
import { checkJson, type JsonFileKind } from '../tables/json-file.js';
import {
  badCheckpoint,
  type Checkpoint,
  type CheckpointTensor,
  checkCover,
  dtypeBytes,
  isRowMajor,
  type Piece,
  refuser,
} from './checkpoint.js';
import { FLOATS, FRONT_FORMATS } from './convert.js';
import type { ImportSpec, ImportTable } from './import-spec.js';
import { type PlannedKeys, planKeys } from './plan-keys.js';
import type { TensorNames } from './tensor-names.js';

/** A table of the spec, and where its rows come from. */
export interface PlannedTable {
  readonly spec: ImportTable & { readonly rows: number; readonly dim: number; readonly format: RowFormat };
  readonly tensor: CheckpointTensor;
  readonly pieces: readonly Piece[];
  /** Of a row in the checkpoint. */
  readonly sourceRowBytes: number;
  /**
   * none: rows are served as they are; front: scale and bias move behind the values; widened: float64 becomes float32; packed: what terabag pack does.
   */
  readonly conversion: 'none' | 'front' | 'widened' | 'packed';
  /** The one place of all rows, one after another, that can be served without a conversion; else null. */
  readonly inPlace: Piece | null;
  /** Null when ids are rows. */
  readonly keys: PlannedKeys | null;
}

export interface PlannedImport {
  readonly tables: readonly PlannedTable[];
  /** By the names of the spec, in the order in which layers name them. */
  readonly dense: ReadonlyMap<string, CheckpointTensor>;
}

/** Finds all that the spec names, and refuses what does not fit, before anything is written. */
export async function planImport(checkpoint: Checkpoint, names: TensorNames, spec: ImportSpec): Promise<PlannedImport> {
  const tables: PlannedTable[] = [];
  for (const [at, table] of spec.tables.entries()) tables.push(await planTable(checkpoint, names, table, `tables[${at}]`));
  return { tables, dense: denseTensors(checkpoint.path, names, spec, tables) };
}

async function planTable(checkpoint: Checkpoint, names: TensorNames, table: ImportTable, field: string): Promise<PlannedTable> {
  const tensor = names.get(table.tensor, `${field}.tensor`);
  const { dtype, shape } = tensor;
  const wrong = (key: string, what: string): TerabagError =>
    badCheckpoint(checkpoint.path, `${field}.${key}: ${what}`, { table: table.name, tensor: tensor.name });
  const [rows = 0, width = 0] = shape;
  if (shape.length !== 2 || rows === 0 || width === 0)
    throw wrong('tensor', `a table is a tensor [rows, dim]: ${tensor.name} is ${shape.join('x') || 'a scalar'}`);
  const { format, dim, conversion } = rowsOf(table, tensor, width, wrong);
  if (table.rows !== undefined && table.rows !== rows) throw wrong('rows', `is ${table.rows}, tensor ${tensor.name} is ${shape.join('x')}`);
  if (table.dim !== undefined && table.dim !== dim) throw wrong('dim', `is ${table.dim}, tensor ${tensor.name} is ${shape.join('x')}`);
  const pieces = await tensor.pieces();
  checkCover(tensor.name, shape, pieces, refuser(checkpoint.path));
  const [piece] = pieces;
  const whole =
    piece !== undefined && pieces.length === 1 && isRowMajor(piece.sizes, piece.strides) && piece.byteOffset % dtypeBytes(dtype) === 0;
  const spec = { ...table, rows, dim, format };
  return {
    spec,
    tensor,
    pieces,
    sourceRowBytes: width * dtypeBytes(dtype),
    conversion,
    inPlace: conversion === 'none' && whole ? piece : null,
    keys:
      table.keys === undefined ? null : await planKeys(checkpoint, names, { table: table.name, rows, tensor: table.keys.tensor, field }),
  };
}

const FORMAT_OF_DTYPE = new Map<string, PlainFormat>(PLAIN_FORMATS.map((format) => [dtypeOf(format), format]));

type Wrong = (key: string, what: string) => TerabagError;

/** How the rows are to be stored, and what has to be done for it. */
function rowsOf(
  table: ImportTable,
  tensor: CheckpointTensor,
  width: number,
  wrong: Wrong,
): Pick<PlannedTable, 'conversion'> & { format: RowFormat; dim: number } {
  const { name, dtype } = tensor;
  if (dtype === 'U8') return packedRows(table, tensor, width, wrong);
  if (table.scaleAndBias !== undefined) throw wrong('scaleAndBias', `only quantized rows have them, in a U8 tensor: ${name} is ${dtype}`);
  if (!FLOATS.has(dtype))
    throw wrong('tensor', `a table has values of F64, F32, F16 or BF16, or quantized rows in U8: ${name} is ${dtype}`);
  const own = FORMAT_OF_DTYPE.get(dtype) ?? 'fp32';
  const format = table.format ?? own;
  if (format === own) return { format, dim: width, conversion: dtype === 'F64' ? 'widened' : 'none' };
  if (dtype === 'F64') throw wrong('format', `float64 becomes fp32, which terabag pack makes smaller: ${format}`);
  return { format, dim: width, conversion: 'packed' };
}

function packedRows(
  table: ImportTable,
  { name, quantized }: CheckpointTensor,
  width: number,
  wrong: Wrong,
): Pick<PlannedTable, 'conversion'> & { format: RowFormat; dim: number } {
  const { format = quantized?.format, scaleAndBias = 'behind' } = table;
  if (format === undefined || !isPacked(format))
    throw wrong('format', `has to say what the quantized rows of a U8 tensor are: int8, int8_fp16 or int4: ${format ?? 'missing'}`);
  if (scaleAndBias === 'behind') {
    const { valueBits, scaleAndBiasBytes } = rowFormatInfo(format);
    const dim = table.dim ?? quantized?.dim ?? Math.floor(((width - scaleAndBiasBytes) * 8) / valueBits);
    if (dim < 1 || rowBytes(format, dim) !== width)
      throw wrong('dim', `rows of ${format} and dim ${dim} have ${rowBytes(format, Math.max(1, dim))} bytes, tensor ${name} has ${width}`);
    return { format, dim, conversion: 'none' };
  }
  if (!FRONT_FORMATS.has(format))
    throw wrong('format', `rows with scale and bias in front have them as float16: ${[...FRONT_FORMATS].join(' or ')}: ${format}`);
  if (table.dim === undefined) throw wrong('dim', 'is needed, since rows with scale and bias in front may be padded');
  if (rowBytes(format, table.dim) > width)
    throw wrong('dim', `rows of ${format} and dim ${table.dim} have ${rowBytes(format, table.dim)} bytes, tensor ${name} has ${width}`);
  return { format, dim: table.dim, conversion: 'front' };
}

const AS_MODEL: JsonFileKind = { what: 'spec with the shapes of the checkpoint', code: 'bad_checkpoint', formatField: formatPath };

/** The tensors that the layers name: those that are asked for when the model is resolved. */
function denseTensors(path: string, names: TensorNames, spec: ImportSpec, tables: readonly PlannedTable[]): Map<string, CheckpointTensor> {
  const dense = new Map<string, CheckpointTensor>();
  const shapes: Pick<ReadonlyMap<string, readonly number[]>, 'get'> = {
    get: (name) => {
      const tensor = names.get(name, 'nets');
      if (!FLOATS.has(tensor.dtype))
        throw new TerabagError('bad_checkpoint', `dense weights have values of F64, F32, F16 or BF16: ${name} is ${tensor.dtype}`, {
          tensor: name,
        });
      dense.set(name, tensor);
      return tensor.shape;
    },
  };
  const placed = tables.map(({ spec: { scaleAndBias: _, keys, ...table } }) => ({
    ...table,
    file: 'tables',
    ...(keys && { keys: { file: 'tables', ...keys } }),
  }));
  const model = checkJson(path, { ...spec, tables: placed, files: {} }, AS_MODEL, modelSchema);
  resolveModel(model, shapes as ReadonlyMap<string, readonly number[]>);
  return dense;
}
