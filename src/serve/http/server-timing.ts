import type { IncomingMessage } from 'node:http';
import type { Answer } from './answer.js';

/** When what happened to one request, ms of performance.now(), and what its stages took. */
interface RequestTimes {
  /** Its headers were read. */
  readonly startedAt: number;
  /** Its body was. */
  readonly readAt: number;
  readonly decodeMs: number;
  readonly predictMs: number;
  /** The predictor answered. */
  readonly answeredAt: number;
}

/** Whether the header asks for Server-Timing; the parameter `timing: true` of an inference does so too. */
export const asksForTiming = ({ headers }: IncomingMessage): boolean => headers['x-terabag-timing'] === '1';

/**
 * The answer with a Server-Timing header, ms: total from the request's headers to the answer that is ready to be sent; within it read, the body as it
 * arrives; decode, from the body to the predictor's request; predict, the predictor's own time; encode. To be called once the answer is encoded.
 */
export function withTiming(answer: Answer, { startedAt, readAt, decodeMs, predictMs, answeredAt }: RequestTimes): Answer {
  const now = performance.now();
  const stages = { total: now - startedAt, read: readAt - startedAt, decode: decodeMs, predict: predictMs, encode: now - answeredAt };
  const told = Object.entries(stages).map(([name, ms]) => `${name};dur=${ms.toFixed(3)}`);
  return { ...answer, headers: { ...answer.headers, 'server-timing': told.join(', ') } };
}
