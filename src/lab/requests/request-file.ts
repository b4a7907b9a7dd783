import { type ErrorDetails, TerabagError } from '../../errors.js';
import type { BagsInput, PredictRequest } from '../../predictor/predictor.js';
import { requestFromJson } from '../../predictor/request-json.js';
import { cut } from '../../predictor/shown.js';
import { writeAtomic } from '../../tables/atomic.js';
import { parseJson } from '../../tables/json.js';
import { readSafetensorsHeader, readTensor, type SafetensorsHeader } from '../../tables/safetensors.js';
import { type ReadLine, readLines } from './lines.js';
import { isArchive, readRequestArchive, writeRequestArchive } from './request-archive.js';
import { type CopiedRequest, copyRequest } from './request-copy.js';
import { ARRAYS, type ArrayDtype, INTEGERS, requestIntegers, type TensorArray } from './tensor-array.js';

/**
 * Requests in files. JSONL: one request a line, as requestFromJson takes it.
 * Safetensors: many requests, as request-archive.ts describes; or one request, in tensors items (one I32 or I64; may be left out), dense.NAME
 * (F32), sparse.BAG.indices and sparse.BAG.offsets (I32, U32, I64 or U64) and sparse.BAG.weights (F32).
 */

/** One line's request, or what is wrong with the line. */
export type ReadRequest =
  | { readonly line: number; readonly request: PredictRequest }
  | { readonly line: number; readonly error: TerabagError };

/** Reads any file of requests as a stream: JSONL ("-" is stdin), or safetensors of many requests or one. Bad lines are given as errors. */
export async function* readRequests(
  path: string,
  onProgress: (done: number, total: number) => void = () => undefined,
): AsyncGenerator<ReadRequest> {
  if (!path.endsWith('.safetensors')) {
    yield* readJsonlRequests(path, onProgress);
    return;
  }
  const header = await readSafetensorsHeader(path);
  let line = 0;
  if (isArchive(header)) for await (const request of readRequestArchive(header, onProgress)) yield { line: ++line, request };
  else yield { line: 1, request: await readSafetensorsRequest(path) };
}

/** The requests of any such file; the first bad one ends it with an error that names the file. */
export async function* requestsOfFile(path: string): AsyncGenerator<PredictRequest> {
  for await (const read of readRequests(path)) {
    if ('error' in read) throw new TerabagError(read.error.code, `${path}: ${read.error.message}`, read.error.details);
    yield read.request;
  }
}

/** An error of a predictor about a request of a file, which names the request as errors of lines that cannot be read do. */
export function locatedError(path: string, line: number, thrown: unknown): TerabagError {
  const { code, message, details } = TerabagError.from(thrown);
  const which = path.endsWith('.safetensors') ? 'request' : 'line';
  return new TerabagError(code, `${which} ${line}: ${message}`, { ...details, line }, { cause: thrown });
}

/** Whether it is a safetensors file of many requests. */
export async function holdsManyRequests(path: string): Promise<boolean> {
  return path.endsWith('.safetensors') && isArchive(await readSafetensorsHeader(path));
}

/**
 * Writes requests atomically: safetensors of many requests (they are in memory first), or JSONL (streamed), as the path ends. What cannot be
 * read again as it is refused (invalid_argument), and no file is left.
 */
export async function writeRequests(path: string, requests: Iterable<PredictRequest> | AsyncIterable<PredictRequest>): Promise<void> {
  if (path.endsWith('.safetensors')) {
    const copies: CopiedRequest[] = [];
    for await (const request of requests) copies.push(copyRequest(request));
    await writeRequestArchive(path, copies);
    return;
  }
  if (!path.endsWith('.jsonl'))
    throw new TerabagError('invalid_argument', `a file of requests ends with .jsonl or .safetensors: ${path}`, { path });
  await writeAtomic(path, async (file) => {
    let line = 0;
    for await (const request of requests) {
      const text = jsonLine(request);
      const read = parseLine({ line: ++line, text });
      if ('error' in read) throw new TerabagError(read.error.code, `${path}: ${read.error.message}`, read.error.details);
      await file.appendFile(`${text}\n`);
    }
  });
}

/** JSON has no NaN and no infinity: they would be read as null, and refused. */
function jsonLine(request: PredictRequest): string {
  const plain = (_key: string, value: unknown): unknown => {
    if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
    if (typeof value === 'number' && !Number.isFinite(value))
      throw new TerabagError('invalid_argument', `JSONL has no ${value}; a .safetensors file of requests has`);
    return ArrayBuffer.isView(value) ? Array.from(value as Float32Array) : value;
  };
  return JSON.stringify(request, plain);
}

/** Reads a JSONL file of requests as a stream; empty lines are passed over, bad ones are given as errors. "-" reads stdin. */
async function* readJsonlRequests(path: string, onProgress?: (doneBytes: number, totalBytes: number) => void): AsyncGenerator<ReadRequest> {
  for await (const read of readLines(path, { onProgress })) yield parseLine(read);
}

/** The request of a line. */
export function parseLine(read: ReadLine): ReadRequest {
  if ('error' in read) return read;
  const { line, text } = read;
  const bad = (what: string): ReadRequest => ({ line, error: new TerabagError('invalid_argument', `line ${line}: ${what}`, { line }) });
  let json: unknown;
  try {
    json = parseJson(text);
  } catch (error) {
    return bad(error instanceof Error ? error.message : String(error));
  }
  try {
    return { line, request: requestFromJson(json) };
  } catch (error) {
    const { code, message, details } = TerabagError.from(error);
    const digits = writtenDigits(text, details);
    const written = digits === null || message.endsWith(digits) ? '' : `, written as ${digits}`;
    return { line, error: new TerabagError(code, `line ${line}: ${message}${written}`, { ...details, line }) };
  }
}

/** The number that an error is about, as it stands in the line: JSON.parse rounds those beyond 2^53. Null when it is about none. */
function writtenDigits(text: string, { field, position }: ErrorDetails): string | null {
  let written: string | null = null;
  const place = `${field}${position === undefined ? '' : `.${position}`}`;
  parseJson(text, (digits, path) => {
    if ((path.length === 0 ? 'request' : path.join('.')) === place) written = digits;
  });
  return written === null ? null : cut(written);
}

/** Reads a safetensors file as one request. */
export async function readSafetensorsRequest(path: string): Promise<PredictRequest> {
  const header = await readSafetensorsHeader(path);
  const dense = new Map<string, Float32Array>();
  const sparse = new Map<string, Record<string, unknown>>();
  for (const name of header.tensors.keys()) {
    // Names hold any characters, line ends too.
    const [, feature] = /^dense\.(.+)$/s.exec(name) ?? [];
    const [, bag, field] = /^sparse\.(.+)\.(indices|offsets|weights)$/s.exec(name) ?? [];
    if (name === 'items') continue;
    if (feature !== undefined) dense.set(feature, (await readArray(header, name, ['F32'])) as Float32Array);
    else if (bag !== undefined && field !== undefined)
      sparse.set(bag, { ...sparse.get(bag), [field]: await readBagField(header, name, field) });
    else
      throw new TerabagError(
        'invalid_argument',
        `tensors have to be items, dense.NAME or sparse.BAG.indices, .offsets, .weights: ${name}: ${path}`,
        {
          path,
          field: name,
        },
      );
  }
  for (const [bag, fields] of sparse) {
    for (const field of ['indices', 'offsets']) {
      if (fields[field] === undefined)
        throw new TerabagError('invalid_argument', `tensor is missing: sparse.${bag}.${field}: ${path}`, {
          path,
          field: `sparse.${bag}.${field}`,
        });
    }
  }
  return {
    ...(header.tensors.has('items') && { items: await readItems(header) }),
    dense: Object.fromEntries(dense),
    sparse: Object.fromEntries(sparse) as unknown as Record<string, BagsInput>,
  };
}

async function readBagField(header: SafetensorsHeader, name: string, field: string): Promise<unknown> {
  if (field === 'weights') return readArray(header, name, ['F32']);
  return requestIntegers((await readArray(header, name, INTEGERS)) as Int32Array);
}

async function readArray(header: SafetensorsHeader, name: string, dtypes: readonly ArrayDtype[]): Promise<TensorArray> {
  const tensor = header.tensors.get(name);
  const dtype = dtypes.find((candidate) => candidate === tensor?.dtype);
  if (tensor === undefined || dtype === undefined) {
    throw new TerabagError('invalid_argument', `tensor has to be ${dtypes.join(' or ')}: ${name} is ${tensor?.dtype}: ${header.path}`, {
      path: header.path,
      field: name,
    });
  }
  return new ARRAYS[dtype]((await readTensor(header, tensor)).buffer);
}

/** Of a request, which says how many items it has in one value. */
async function readItems(header: SafetensorsHeader): Promise<number> {
  const values = await readArray(header, 'items', ['I32', 'I64']);
  const refuse = (what: string): TerabagError =>
    new TerabagError('invalid_argument', `items has to be one integer below 2^53: ${what}: ${header.path}`, {
      path: header.path,
      field: 'items',
    });
  if (values.length !== 1) throw refuse(`shape [${header.tensors.get('items')?.shape.join(', ')}]`);
  const items = Number(values[0]);
  if (!Number.isSafeInteger(items)) throw refuse(String(values[0]));
  return items;
}
