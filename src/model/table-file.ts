import { stat } from 'node:fs/promises';
import { TerabagError } from '../errors.js';
import { fileError } from '../tables/file-error.js';
import { readSafetensorsHeader, type SafetensorsHeader, type TensorInfo } from '../tables/safetensors.js';
import { dtypeOf, isPacked, rowBytes, rowFormatMetadata } from './formats.js';
import type { TableSpec } from './spec.js';

/** Whether model.json says where the rows of a table start; else the header of its file does. */
export const isPlacedBySpec = ({ byteOffset }: Pick<TableSpec, 'byteOffset'>): boolean => byteOffset !== undefined;

/** What a file of that kind is called when its rows are written as a safetensors file. */
export const headed = (file: string): string => (file.endsWith('.safetensors') ? file : `${file}.safetensors`);

/**
 * What a file of tables holds: what its header says, or, where model.json says where the rows start, the same of these tables. A file of which it
 * says so need not be a safetensors file, and may hold anything beside the rows.
 */
export async function readTableFile(path: string, tables: readonly TableSpec[]): Promise<SafetensorsHeader> {
  if (!tables.some(isPlacedBySpec)) return readSafetensorsHeader(path);
  const fileBytes = await stat(path).then(
    ({ size }) => size,
    (error: unknown) => {
      throw fileError(error, 'file cannot be read', path, 'bad_table');
    },
  );
  const tensors = new Map<string, TensorInfo>();
  const metadata: Record<string, string> = {};
  for (const table of tables) {
    const { name, tensor, dim, format } = table;
    const info = placedTensor(table, path, fileBytes);
    const other = tensors.get(tensor);
    if (other !== undefined && (other.byteOffset !== info.byteOffset || other.bytes !== info.bytes || other.dtype !== info.dtype))
      throw new TerabagError('bad_model', `tables: two places of one tensor: ${tensor}, table ${name}, byte ${info.byteOffset}: ${path}`, {
        table: name,
        tensor,
      });
    tensors.set(tensor, info);
    if (isPacked(format)) metadata[`${tensor}.row_format`] = rowFormatMetadata(format, dim);
  }
  return { path, fileBytes, dataStart: 0, metadata, tensors };
}

function placedTensor({ name, rows, dim, format, byteOffset }: TableSpec, path: string, fileBytes: number): TensorInfo {
  if (byteOffset === undefined)
    throw new TerabagError('bad_model', `tables: all tables of a file need byteOffset, or none: table ${name}: ${path}`, { table: name });
  const each = rowBytes(format, dim);
  const bytes = rows * each;
  if (byteOffset + bytes > fileBytes)
    throw new TerabagError(
      'bad_table',
      `table ${name}: does not lie in its file: ends at byte ${byteOffset + bytes}, file bytes ${fileBytes}: ${path}`,
      {
        table: name,
        path,
      },
    );
  return { dtype: dtypeOf(format), shape: [rows, isPacked(format) ? each : dim], byteOffset, bytes };
}
