import { TerabagError } from '../../errors.js';

/** An object of parsed JSON. A schema library took more of a request's CPU time than the parser. */
export type JsonObject = Readonly<Record<string, unknown>>;

const own = (object: JsonObject, name: string): unknown => (Object.hasOwn(object, name) ? (object[name] ?? undefined) : undefined);

/** Names the place, as inputs.3.name, in the error (invalid_argument). */
type Place = () => string;

/** Names a field of an object that stands at this place. */
export const inside =
  (place: Place, name: string | number): Place =>
  () => {
    const outer = place();
    return outer === '' ? String(name) : `${outer}.${name}`;
  };

const wrong = (place: Place, expected: string, value: unknown): TerabagError => {
  const field = place() || 'body';
  const given = Array.isArray(value) ? 'an array' : typeof value === 'number' || typeof value === 'boolean' ? String(value) : typeof value;
  return new TerabagError('invalid_argument', `${field} has to be ${expected}: ${value === undefined ? 'missing' : given}`, { field });
};

export function anObjectAt(place: Place, value: unknown): JsonObject {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as JsonObject;
  throw wrong(place, 'an object', value);
}

/** What clients leave out they also write as null: undefined. */
export const optional = <T>(read: (place: Place, value: unknown) => T, place: Place, object: JsonObject, name: string): T | undefined => {
  const value = own(object, name);
  return value === undefined ? undefined : read(inside(place, name), value);
};

export const required = <T>(read: (place: Place, value: unknown) => T, place: Place, object: JsonObject, name: string): T =>
  read(inside(place, name), own(object, name));

/** Of any value, which is not null. */
export const has = (object: JsonObject | undefined, name: string): boolean => object !== undefined && own(object, name) !== undefined;

export function anArrayAt(place: Place, value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value;
  throw wrong(place, 'an array', value);
}

export function aStringAt(place: Place, value: unknown): string {
  if (typeof value === 'string') return value;
  throw wrong(place, 'a string', value);
}

export function aBooleanAt(place: Place, value: unknown): boolean {
  if (typeof value === 'boolean') return value;
  throw wrong(place, 'true or false', value);
}

/** Also as a string of digits, as some clients write it. */
export function aCountAt(place: Place, value: unknown): number {
  const count = typeof value === 'string' && /^\d{1,16}$/.test(value) ? Number(value) : value;
  if (typeof count === 'number' && Number.isSafeInteger(count) && count >= 0) return count;
  throw wrong(place, 'an integer, 0 or more', value);
}
