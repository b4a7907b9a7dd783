import { InvalidArgumentError } from 'commander';
import { TerabagError } from '../errors.js';
import { ROW_FORMATS } from '../model/row-format.js';
import { OBJECTIVES } from '../plan/auto.js';
import type { Change } from '../plan/scenario.js';
import { STRATEGIES } from '../plan/strategies.js';
import { byteSize, positiveInteger } from './options.js';

const oneOf =
  <T extends string>(choices: readonly T[]) =>
  (text: string): T => {
    const found = choices.find((choice) => choice === text);
    if (found === undefined) throw new InvalidArgumentError(`It has to be one of ${choices.join(', ')}.`);
    return found;
  };

/** What can be asked, and how its value is read. */
const KEYS: { readonly [key: string]: (text: string) => Change } = {
  strategy: (text) => ({ strategy: oneOf([...STRATEGIES, 'auto'] as const)(text) }),
  objective: (text) => ({ objective: oneOf(OBJECTIVES)(text) }),
  shards: (text) => ({ shards: positiveInteger(text) }),
  'memory-limit': (text) => ({ memoryLimitBytes: byteSize(text) }),
  local: (text) => ({ localBytes: text === '0' ? 0 : byteSize(text) }),
  format: (text) => ({ format: oneOf(ROW_FORMATS)(text) }),
  items: (text) => ({ items: positiveInteger(text) }),
  cores: (text) => ({ cores: text === 'own' ? null : positiveInteger(text) }),
  rpc: (text) => ({ rpc: oneOf(['coalesced', 'paper'] as const)(text) }),
  'batch-items': (text) => ({ batchItems: positiveInteger(text) }),
};

export const WHAT_IF_KEYS = Object.keys(KEYS);

/** Reads "shards=16,format=int8". An unknown key, a key given twice and a bad value are refused (invalid_argument) with the key. */
export function parseWhatIf(text: string): Change {
  let change: Change = {};
  const seen = new Set<string>();
  for (const pair of text.split(',')) {
    const [key = '', value = '', ...more] = pair.split('=').map((part) => part.trim());
    const bad = (what: string): TerabagError => new TerabagError('invalid_argument', `what-if: ${what}: ${pair.trim()}`, { field: key });
    const read = Object.hasOwn(KEYS, key) ? KEYS[key] : undefined;
    if (read === undefined) throw bad(`no such key, there are ${WHAT_IF_KEYS.join(', ')}`);
    if (seen.has(key)) throw bad(`${key} is given twice`);
    if (value === '' || more.length > 0) throw bad('has to be KEY=VALUE');
    seen.add(key);
    try {
      change = { ...change, ...read(value) };
    } catch (error) {
      throw bad(error instanceof InvalidArgumentError ? error.message.replace(/\.$/, '') : String(error));
    }
  }
  return change;
}
