/** Longer strings are cut in messages. */
const MOST_CHARACTERS = 40;

/** A value as error messages show it: values that print alike are told apart by their type, as 1, "1" and 1n. */
export function shown(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return `the string ${JSON.stringify(cut(value))}`;
    case 'bigint':
      return `the bigint ${cut(`${value}n`)}`;
    case 'object':
      if (value === null) return 'null';
      if (Array.isArray(value)) return 'an array';
      return ArrayBuffer.isView(value) ? `a ${value.constructor.name}` : 'an object';
    case 'function':
    case 'symbol':
      return `a ${typeof value}`;
    case 'number':
      return digits(value);
    default:
      return String(value);
  }
}

/** The start of a text that may have any length. */
export const cut = (text: string): string => (text.length > MOST_CHARACTERS ? `${text.slice(0, MOST_CHARACTERS)}...` : text);

/**
 * A number, a bigint, or what is written as one, with all its digits, unless they are more than any id has: JavaScript writes zeros for the last
 * ones of a number beyond 2^53.
 */
export function digits(value: number | bigint | string): string {
  if (Object.is(value, -0)) return '-0';
  return Number.isInteger(value) && Math.abs(value as number) < EXPONENT ? String(BigInt(value)) : cut(String(value));
}

/** From here on numbers are written with an exponent, in fewer characters than digits. */
const EXPONENT = 1e21;
