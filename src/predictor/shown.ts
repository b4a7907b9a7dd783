/** Longer strings are cut in messages. */
const MOST_CHARACTERS = 40;

/** A value as error messages show it: values that print alike are told apart by their type, as 1, "1" and 1n. */
export function shown(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return `the string ${JSON.stringify(value.length > MOST_CHARACTERS ? `${value.slice(0, MOST_CHARACTERS)}...` : value)}`;
    case 'bigint':
      return `the bigint ${value}n`;
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

/** A number or bigint with all its digits: JavaScript writes zeros for the last ones of a number beyond 2^53. */
export function digits(value: number | bigint | string): string {
  if (Object.is(value, -0)) return '-0';
  return Number.isInteger(value) && Math.abs(value as number) < EXPONENT ? String(BigInt(value)) : String(value);
}

/** From here on numbers are written with an exponent, in fewer characters than digits. */
const EXPONENT = 1e21;
