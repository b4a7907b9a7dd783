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
    default:
      return Object.is(value, -0) ? '-0' : String(value);
  }
}
