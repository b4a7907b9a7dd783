import type { IncomingMessage, ServerResponse } from 'node:http';
import { promisify } from 'node:util';
import { deflate, gzip } from 'node:zlib';
import { TerabagError } from '../../errors.js';
import { Refusal } from './refusal.js';
import { statusOf } from './status.js';

/** What a handler answers with. */
export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | number>>;
  readonly parts: readonly Uint8Array[];
  /** Given the response when its head is written, in place of parts: writes the body as it comes, and ends it. */
  readonly stream?: (response: ServerResponse) => void;
}

/** Clients parse the body of any status, and some compare the type exactly. */
const JSON_TYPE = 'application/json';

export const jsonAnswer = (value: unknown, status = 200, headers: Answer['headers'] = {}): Answer => ({
  status,
  headers: { 'content-type': JSON_TYPE, ...headers },
  parts: [Buffer.from(JSON.stringify(value))],
});

/** {"error": message, ...} with the status of its code. */
export function errorAnswer(thrown: unknown): Answer {
  if (thrown instanceof Refusal) return jsonAnswer({ error: thrown.message }, thrown.status, thrown.headers);
  const { code, message, details } = TerabagError.from(thrown);
  const status = statusOf(code);
  return jsonAnswer({ error: message, code, details }, status, status === 503 ? { 'retry-after': 1 } : {});
}

const COMPRESS = { gzip: promisify(gzip), deflate: promisify(deflate) } as const;
/** Below, the header and the time cost more than what is saved. */
const LEAST_COMPRESSED_BYTES = 1024;

/** Writes it, compressed where the client takes that and it is worth it. */
export async function send(request: IncomingMessage, response: ServerResponse, { status, headers, parts, stream }: Answer): Promise<void> {
  if (stream !== undefined && request.method !== 'HEAD') {
    response.writeHead(status, headers);
    stream(response);
    return;
  }
  const [first = Buffer.alloc(0)] = parts;
  const whole = parts.length > 1 ? Buffer.concat(parts) : first;
  const encoding = whole.length < LEAST_COMPRESSED_BYTES ? null : encodingOf(request.headers['accept-encoding']);
  const body = encoding === null ? whole : await COMPRESS[encoding](whole, { level: 1 });
  response.writeHead(status, {
    ...headers,
    ...(encoding !== null && { 'content-encoding': encoding, vary: 'Accept-Encoding' }),
    'content-length': body.length,
  });
  response.end(body);
}

/** The first that is taken of those we have; one with q=0 is not. */
function encodingOf(accepted: string | string[] | undefined): keyof typeof COMPRESS | null {
  if (accepted === undefined) return null;
  for (const part of String(accepted).split(',')) {
    const [coding = '', ...parameters] = part.split(';').map((text) => text.trim().toLowerCase());
    const refused = parameters.some((parameter) => /^q=0(?:\.0*)?$/.test(parameter));
    if (!refused && (coding === 'gzip' || coding === 'deflate')) return coding;
  }
  return null;
}
