import type { IncomingMessage } from 'node:http';
import { promisify } from 'node:util';
import { gunzip, inflate } from 'node:zlib';
import type { ByteBudget } from '../../byte-budget.js';
import { TerabagError } from '../../errors.js';
import { BufferPool, type Lent } from '../../rpc/transport/buffer-pool.js';
import { Refusal } from './refusal.js';

/** What reads a body bounds. */
export interface BodyLimits {
  /** Of one body, as it comes and decompressed. */
  readonly maxBytes: number;
  /** Of all bodies that are held. */
  readonly budget: ByteBudget;
}

/** Bodies in memory of their own would make V8 collect all garbage after every 32 MiB of them. */
const bodies = new BufferPool();

/** Binary tensors are read where they lie when they are aligned to this. */
const ALIGNMENT = 8;

type Decompress = (body: Buffer, options: { maxOutputLength: number }) => Promise<Buffer>;
const DECOMPRESS: ReadonlyMap<string, Decompress> = new Map<string, Decompress>([
  ['gzip', promisify(gunzip)],
  ['x-gzip', promisify(gunzip)],
  // The zlib format, as HTTP has it.
  ['deflate', promisify(inflate)],
]);

/**
 * Reads a body and hands it to use, while its bytes count against the budget. It is placed so that what follows its first headerLength bytes is aligned
 * for any datatype. Throws 413 of one that is too large, 415 of an unknown Content-Encoding, overloaded when others hold too much.
 */
export async function withBody<T>(
  request: IncomingMessage,
  headerLength: number,
  limits: BodyLimits,
  use: (body: Buffer) => Promise<T>,
): Promise<T> {
  const { maxBytes, budget } = limits;
  const encoding = (request.headers['content-encoding'] ?? 'identity').trim().toLowerCase();
  const decompress = DECOMPRESS.get(encoding);
  if (decompress === undefined && encoding !== 'identity')
    throw new Refusal(415, `Content-Encoding has to be one of identity, ${[...DECOMPRESS.keys()].join(', ')}: ${encoding.slice(0, 40)}`);
  const announced = Number(request.headers['content-length'] ?? Number.NaN);
  if (announced > maxBytes) throw tooLarge(maxBytes);
  let held = 0;
  const hold = (bytes: number): void => {
    if (!budget.take(bytes))
      throw new TerabagError('overloaded', `bodies of requests hold too many bytes: ${budget.held} of ${budget.most}`, { field: 'body' });
    held += bytes;
  };
  let lent: Lent | null = null;
  try {
    let body: Buffer;
    if (Number.isNaN(announced)) body = await collected(request, maxBytes, hold);
    else {
      hold(announced);
      lent = bodies.take(announced + ALIGNMENT);
      body = await placed(request, lent.bytes, decompress === undefined ? headerLength : 0);
    }
    if (decompress !== undefined) body = await decompressed(body, decompress, limits, hold);
    return await use(body);
  } finally {
    // Predictors copy what they are given.
    lent?.release();
    budget.giveBack(held);
  }
}

const tooLarge = (maxBytes: number): Refusal => new Refusal(413, `the body may have ${maxBytes} bytes (--max-body)`);

async function placed(request: IncomingMessage, { buffer, byteLength }: Uint8Array, headerLength: number): Promise<Buffer> {
  const from = (ALIGNMENT - (headerLength % ALIGNMENT)) % ALIGNMENT;
  const memory = Buffer.from(buffer, 0, byteLength);
  let at = from;
  await eachChunk(request, (chunk) => {
    at += chunk.copy(memory, at);
  });
  return memory.subarray(from, at);
}

async function collected(request: IncomingMessage, maxBytes: number, hold: (bytes: number) => void): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  await eachChunk(request, (chunk) => {
    bytes += chunk.length;
    if (bytes > maxBytes) throw tooLarge(maxBytes);
    hold(chunk.length);
    chunks.push(chunk);
  });
  return Buffer.concat(chunks, bytes);
}

/** An async iterator costs tens of microseconds a request more. */
function eachChunk(request: IncomingMessage, take: (chunk: Buffer) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (error: unknown): void => {
      request.off('data', onData);
      reject(error);
    };
    const onData = (chunk: Buffer): void => {
      try {
        take(chunk);
      } catch (error) {
        fail(error);
      }
    };
    request.on('data', onData);
    request.once('end', resolve);
    request.once('error', () => fail(new TerabagError('aborted', 'the client went away within the body')));
    // Of a request without an error of its own, as when its socket is destroyed.
    request.once('close', () => fail(new TerabagError('aborted', 'the client went away within the body')));
  });
}

/** A small body may become a large one: as much as it may is held before. */
async function decompressed(
  body: Buffer,
  decompress: Decompress,
  { maxBytes, budget }: BodyLimits,
  hold: (bytes: number) => void,
): Promise<Buffer> {
  hold(Math.min(maxBytes, budget.most - budget.held, body.length * MOST_RATIO));
  try {
    return await decompress(body, { maxOutputLength: maxBytes });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE') throw tooLarge(maxBytes);
    throw new TerabagError('invalid_argument', `the body cannot be decompressed: ${(error as Error).message}`, { field: 'body' });
  }
}

/** The most that deflate makes of a byte. */
const MOST_RATIO = 1032;
