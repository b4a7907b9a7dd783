import { TerabagError } from '../errors.js';
import type { BagsInput, PredictRequest } from './predictor.js';
import { shown } from './shown.js';

const DECIMAL = /^-?\d+$/;
/** Where numbers of JavaScript keep all digits. */
const EXACT = 'between -2^53 and 2^53';

/**
 * The request of a parsed JSON value: {"items"?, "dense"?: {name: [numbers]}, "sparse"?: {bag: {"indices", "offsets", "weights"?}}}, where an id may be a
 * string of decimal digits, as it has to be beyond 2^53. Arrays are those of the value, not copied. Throws invalid_argument with the field, and the
 * position in it, of what is not as it says; what the model does not take is refused by predict.
 */
export function requestFromJson(value: unknown): PredictRequest {
  const request = object('request', value, ['items', 'dense', 'sparse']);
  const items = own(request, 'items');
  if (items !== undefined && !Number.isInteger(items)) throw invalid('items', 'an integer', items);
  if (items !== undefined && !Number.isSafeInteger(items)) throw invalid('items', `an integer ${EXACT}`, items);
  const dense = object('dense', own(request, 'dense') ?? {});
  for (const name of Object.keys(dense)) numbers(`dense.${name}`, dense[name]);
  const sparse = object('sparse', own(request, 'sparse') ?? {});
  for (const name of Object.keys(sparse)) {
    const bags = object(`sparse.${name}`, sparse[name], ['indices', 'offsets', 'weights']);
    ids(`sparse.${name}.indices`, own(bags, 'indices'));
    integers(`sparse.${name}.offsets`, own(bags, 'offsets'));
    if (Object.hasOwn(bags, 'weights')) numbers(`sparse.${name}.weights`, bags['weights']);
  }
  return {
    ...(items !== undefined && { items: items as number }),
    dense: dense as Readonly<Record<string, readonly number[]>>,
    sparse: sparse as Readonly<Record<string, BagsInput>>,
  };
}

function invalid(field: string, expected: string, value: unknown, position?: number): TerabagError {
  const at = position === undefined ? '' : `, position ${position}`;
  const details = position === undefined ? { field } : { field, position };
  return new TerabagError('invalid_argument', `${field} has to be ${expected}${at}: ${shown(value)}`, details);
}

const own = (record: Readonly<Record<string, unknown>>, name: string): unknown => (Object.hasOwn(record, name) ? record[name] : undefined);

/** Throws unless it is an object, which has no fields but these, when they are given. */
function object(field: string, value: unknown, fields?: readonly string[]): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw invalid(field, 'an object', value);
  const unknown = fields && Object.keys(value).find((name) => !fields.includes(name));
  if (unknown === undefined) return value as Readonly<Record<string, unknown>>;
  throw new TerabagError('invalid_argument', `${field} has no field ${JSON.stringify(unknown)}; it has ${fields?.join(', ')}`, { field });
}

function array(field: string, value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value;
  throw invalid(field, 'an array', value);
}

/** 1e400 is a number in JSON, and too large for any in JavaScript. */
function numbers(field: string, value: unknown): void {
  for (const [position, entry] of array(field, value).entries())
    if (typeof entry !== 'number' || !Number.isFinite(entry)) throw invalid(field, 'finite numbers', entry, position);
}

function integers(field: string, value: unknown): void {
  for (const [position, entry] of array(field, value).entries()) {
    if (!Number.isInteger(entry)) throw invalid(field, 'integers', entry, position);
    if (!Number.isSafeInteger(entry)) throw invalid(field, `integers ${EXACT}`, entry, position);
  }
}

function ids(field: string, value: unknown): void {
  for (const [position, entry] of array(field, value).entries()) {
    const isId = typeof entry === 'number' ? Number.isFinite(entry) : typeof entry === 'string' && DECIMAL.test(entry);
    if (!isId) throw invalid(field, 'integers or strings of decimal digits', entry, position);
    // Its last digits are lost, so that no message could say which id was meant.
    if (Number.isInteger(entry) && !Number.isSafeInteger(entry))
      throw invalid(field, 'strings of decimal digits where ids are 2^53 and beyond', entry, position);
  }
}
