import { TerabagError } from '../../errors.js';

/** Where a number of JavaScript may have lost digits: 16 and more in a row. */
const LONG = /\d{16}/;
/** Strings are passed over; of numbers, those without fraction and exponent are integers. */
const TOKEN = /"(?:[^"\\]|\\.)*"|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const INTEGER = /^-?\d+$/;

/** JSON in which integers that a number cannot hold become strings of their digits: 64-bit ids keep every bit. Throws invalid_argument. */
export function parseExactJson(text: string): unknown {
  try {
    const value: unknown = JSON.parse(text);
    // Of sound JSON only: what is not closed takes TOKEN the square of its length.
    return LONG.test(text) ? JSON.parse(text.replace(TOKEN, quoteLong)) : value;
  } catch (error) {
    throw new TerabagError('invalid_argument', `the body is not JSON: ${(error as Error).message.slice(0, 200)}`, { field: 'body' });
  }
}

const quoteLong = (token: string): string => (INTEGER.test(token) && !Number.isSafeInteger(Number(token)) ? `"${token}"` : token);
