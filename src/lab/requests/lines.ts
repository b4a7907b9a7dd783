import { createReadStream, fstatSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { TerabagError } from '../../errors.js';
import { fileError } from '../../tables/file-error.js';
import { decodeExactly } from '../../tables/json.js';

/** A line of a text file, or what is wrong with it. */
export type ReadLine = { readonly line: number; readonly text: string } | { readonly line: number; readonly error: TerabagError };

export interface ReadLinesOptions {
  /** What the file has, of which an error says that it cannot be read; default requests. */
  readonly what?: string;
  readonly onProgress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
}

/** Half of the longest string that Node has. */
export const MAX_LINE_BYTES = 256 * 2 ** 20;
const NEWLINE = 0x0a;
const BYTE_ORDER_MARK = '\uFEFF';

/**
 * The lines of a file in UTF-8 that are not empty, counted from 1, as a stream; "-" reads stdin. Lines end with \n, or \r\n, and with nothing
 * else: U+2028, U+2029 and U+0085 are characters of JSON strings, and a \r is white space (node:readline would end lines there). A byte order
 * mark at the start of the file is taken. A line that is no UTF-8, or longer than the limit, is given as an error, and the next one follows.
 */
export async function* readLines(
  path: string,
  { what = 'requests', onProgress = () => undefined }: ReadLinesOptions = {},
): AsyncGenerator<ReadLine> {
  const { chunks, totalBytes } = await openChunks(path, what);
  let line = 0;
  let doneBytes = 0;
  for await (const { bytes, length } of frame(chunks, MAX_LINE_BYTES)) {
    line++;
    doneBytes += length;
    if (totalBytes !== null) onProgress(Math.min(doneBytes, totalBytes), totalBytes);
    const bad = (what: string): ReadLine => ({ line, error: new TerabagError('invalid_argument', `line ${line}: ${what}`, { line }) });
    if (bytes === null) {
      yield bad(`longer than ${MAX_LINE_BYTES} bytes`);
      continue;
    }
    const decoded = decodeExactly(bytes);
    const text = line === 1 && decoded?.startsWith(BYTE_ORDER_MARK) ? decoded.slice(1) : decoded;
    if (text === null) yield bad('not UTF-8');
    else if (/[^ \t\r]/.test(text)) yield { line, text };
  }
}

interface Chunks {
  readonly chunks: AsyncIterable<Uint8Array>;
  /** Null where it is not known. */
  readonly totalBytes: number | null;
}

async function openChunks(path: string, what: string): Promise<Chunks> {
  const unreadable = (error: unknown): TerabagError => fileError(error, `${what} cannot be read`, path, 'invalid_argument');
  async function* read(stream: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    try {
      yield* stream;
    } catch (error) {
      // A directory opens, but does not read.
      throw unreadable(error);
    }
  }
  if (path === '-') return { chunks: read(openStdin()), totalBytes: null };
  const file = await open(path, 'r').catch((error: unknown) => {
    throw unreadable(error);
  });
  const stat = await file.stat();
  return { chunks: read(file.createReadStream()), totalBytes: stat.isFile() ? stat.size : null };
}

const STDIN = 0;

/** Node's own stream of what is no pipe, file or terminal ends at once, as if it were empty. */
function openStdin(): AsyncIterable<Uint8Array> {
  const stat = fstatSync(STDIN);
  return stat.isDirectory() || stat.isBlockDevice() ? createReadStream('', { fd: STDIN, autoClose: false }) : process.stdin;
}

interface Frame {
  /** Without the line end; null when the line is too long. */
  readonly bytes: Uint8Array | null;
  /** With the line end. */
  readonly length: number;
}

/** Cuts chunks at \n. Of a line that is too long nothing is kept. */
async function* frame(chunks: AsyncIterable<Uint8Array>, maxBytes: number): AsyncGenerator<Frame> {
  let pieces: Uint8Array[] = [];
  let length = 0;
  const add = (piece: Uint8Array): void => {
    length += piece.length;
    if (length > maxBytes + 1) pieces = [];
    else pieces.push(piece);
  };
  const end = (): Frame => {
    const whole = pieces.length === 1 ? (pieces[0] as Uint8Array) : Buffer.concat(pieces);
    const bytes = withoutLineEnd(whole);
    const framed = { bytes: length > maxBytes + 1 || bytes.length > maxBytes ? null : bytes, length };
    pieces = [];
    length = 0;
    return framed;
  };
  for await (const chunk of chunks) {
    let from = 0;
    for (let newline = chunk.indexOf(NEWLINE); newline >= 0; newline = chunk.indexOf(NEWLINE, from)) {
      add(chunk.subarray(from, newline + 1));
      from = newline + 1;
      yield end();
    }
    if (from < chunk.length) add(chunk.subarray(from));
  }
  if (length > 0) yield end();
}

/** A \r before it stays: it is white space in JSON. */
const withoutLineEnd = (bytes: Uint8Array): Uint8Array => (bytes.at(-1) === NEWLINE ? bytes.subarray(0, -1) : bytes);
