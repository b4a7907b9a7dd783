import { readFile } from 'node:fs/promises';
import type { z } from 'zod';
import { aPath, type ErrorCode, TerabagError } from '../errors.js';
import { fileError } from './file-error.js';
import { decodeText, parseJson } from './json.js';

export interface JsonFileKind {
  /** What the file is, as messages call it: plan, model.json. */
  readonly what: string;
  /** Code of the error when the content is to blame. */
  readonly code: ErrorCode;
  /** Message of the error when the file cannot be opened; default "WHAT cannot be read". */
  readonly unreadable?: string;
  /** How a place in the file is written; default with dots: shards.0.name. */
  readonly formatField?: (path: readonly PropertyKey[]) => string;
}

/**
 * Reads a JSON file of the schema, in UTF-8; a byte order mark at its start is taken. Bytes that are no UTF-8, text that is no JSON, a key that
 * stands twice in an object and a value that is not of the schema are refused with the kind's code; details have the path, and the field.
 */
export async function readJsonFile<T extends z.ZodType>(path: string, kind: JsonFileKind, schema: T): Promise<z.output<T>> {
  const { what, code, unreadable = `${what} cannot be read` } = kind;
  const bytes = await readFile(aPath(what, path)).catch((error: unknown) => {
    throw fileError(error, unreadable, path, code);
  });
  const text = decodeText(bytes);
  if (text === null) throw new TerabagError(code, `${what} is not UTF-8: ${path}`, { path });
  let json: unknown;
  try {
    json = parseJson(text);
  } catch (error) {
    throw new TerabagError(code, `${what} is not sound JSON: ${(error as SyntaxError).message}: ${path}`, { path }, { cause: error });
  }
  return checkJson(path, json, kind, schema);
}

/**
 * A value as the schema has it, of the file at the path, or of none (null): what is to be written, or is given by a caller, is refused as it would be
 * when it is read, with the kind's code; details have the path, and the field.
 */
export function checkJson<T extends z.ZodType>(
  path: string | null,
  value: unknown,
  { what, code, formatField = (at) => at.join('.') || 'root' }: JsonFileKind,
  schema: T,
): z.output<T> {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const field = formatField(issue?.path ?? []);
  const at = path === null ? '' : `: ${path}`;
  throw new TerabagError(code, `${what}: ${field}: ${issue?.message}${at}`, { ...(path !== null && { path }), field });
}
