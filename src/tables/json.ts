/** Keys and positions that lead from the root of a JSON text to a value in it. */
export type JsonPath = readonly (string | number)[];

/** A path as it is written in JavaScript: files["a b"].crc32[0]; "root" when it is empty. */
export const formatPath = (path: readonly PropertyKey[]): string =>
  path.length === 0 ? 'root' : path.map(formatStep).join('').replace(/^\./, '');

const formatStep = (step: PropertyKey): string => {
  if (typeof step === 'number') return `[${step}]`;
  const key = String(step);
  return /^[A-Za-z_$][\w$]*$/.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`;
};

/** One token of a text that JSON.parse has taken. */
const TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\],:]|[^\s"{}[\],:]+/g;
/** The same, but an array of numbers is one token, and other numbers are none: most of a request are such arrays. */
const TOKEN_WITHOUT_NUMBERS = /"[^"\\]*(?:\\.[^"\\]*)*"|\[[^"{}[\]]*\]|[{}[\],:]/g;

/** Deeper than any file of Terabag; other readers of safetensors headers stop here, too. Paths are as long. */
const MOST_LEVELS = 128;

/** An object or array that the scan is in. */
interface Container {
  /** Those of an object so far; null of an array. */
  readonly keys: Set<string> | null;
  /** Key or position of the value that is scanned. */
  step: string | number;
  awaitsKey: boolean;
}

/**
 * Parses a JSON text, and refuses what JSON.parse lets pass: a key that an object has twice (the last one would win), and half of a surrogate
 * pair, which is no text in UTF-8; so is a text of more than 128 levels. onNumber is given each number as it is written, for who has to tell 4 from 4.0 or needs all digits.
 * Throws a SyntaxError that says what, and where.
 */
export function parseJson(text: string, onNumber?: (digits: string, path: JsonPath) => void): unknown {
  const value: unknown = JSON.parse(text);
  const open: Container[] = [];
  const path = (): JsonPath => open.map(({ step }) => step);
  const enter = (container: Container, index: number): void => {
    if (open.push(container) > MOST_LEVELS) throw new SyntaxError(`more than ${MOST_LEVELS} levels at position ${index}`);
  };
  for (const { 0: token, index } of text.matchAll(onNumber === undefined ? TOKEN_WITHOUT_NUMBERS : TOKEN)) {
    const current = open.at(-1);
    switch (token[0]) {
      case '{':
        enter({ keys: new Set(), step: '', awaitsKey: true }, index);
        break;
      case '[':
        if (token.length > 1) break;
        enter({ keys: null, step: 0, awaitsKey: false }, index);
        break;
      case '}':
      case ']':
        open.pop();
        break;
      case ',':
        if (current?.keys === null) current.step = (current.step as number) + 1;
        else if (current !== undefined) current.awaitsKey = true;
        break;
      case ':':
        break;
      case '"': {
        const escaped = token.includes('\\');
        const content = escaped ? (JSON.parse(token) as string) : token.slice(1, -1);
        if (escaped && /\p{Surrogate}/u.test(content)) throw new SyntaxError(`half of a surrogate pair in ${token} at position ${index}`);
        if (current?.keys == null || !current.awaitsKey) break;
        current.awaitsKey = false;
        if (current.keys.has(content)) {
          const at = formatPath(path().slice(0, -1));
          throw new SyntaxError(`key stands twice: ${token} in ${at}, position ${index}`);
        }
        current.keys.add(content);
        current.step = content;
        break;
      }
      case 't':
      case 'f':
      case 'n':
        break;
      default:
        onNumber?.(token, path());
    }
  }
  return value;
}

const DECODER = new TextDecoder('utf-8', { fatal: true });
const EXACT_DECODER = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** The text of bytes in UTF-8, without a byte order mark at the start; null when they are not UTF-8. */
export const decodeText = (bytes: Uint8Array): string | null => decode(bytes, DECODER);

/** As decodeText, but a byte order mark is a character of the text. */
export const decodeExactly = (bytes: Uint8Array): string | null => decode(bytes, EXACT_DECODER);

function decode(bytes: Uint8Array, decoder: InstanceType<typeof TextDecoder>): string | null {
  try {
    return decoder.decode(bytes);
  } catch (error) {
    if (error instanceof TypeError) return null;
    throw error;
  }
}
