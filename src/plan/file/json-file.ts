import { readFile } from 'node:fs/promises';
import type { z } from 'zod';
import { type ErrorCode, TerabagError } from '../../errors.js';

/** Reads a JSON file of the schema. The error, of the given code, says what of the file is wrong and where. */
export async function readJsonFile<T extends z.ZodType>(path: string, what: string, schema: T, code: ErrorCode): Promise<z.output<T>> {
  let json: unknown;
  try {
    json = JSON.parse(await readFile(path, 'utf8'));
  } catch (error) {
    throw new TerabagError(code, `${what} cannot be read: ${path}, ${TerabagError.from(error).message}`, { path }, { cause: error });
  }
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new TerabagError(code, `${what}: ${issue?.path.join('.') || 'root'}: ${issue?.message}: ${path}`);
}
