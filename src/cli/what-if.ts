import { InvalidArgumentError } from 'commander';
import { TerabagError } from '../errors.js';
import { ROW_FORMATS } from '../model/formats.js';
import { STRATEGIES } from '../plan/placement/strategies.js';
import { RPC_MODES } from '../plan/predict/rpc-mode.js';
import { OBJECTIVES } from '../plan/search/auto.js';
import type { Change } from '../plan/search/scenario.js';
import { byteSize, positiveByteSize, positiveInteger } from './options.js';

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
  'memory-limit': (text) => ({ memoryLimitBytes: positiveByteSize(text) }),
  local: (text) => ({ localBytes: byteSize(text) }),
  format: (text) => ({ format: oneOf(ROW_FORMATS)(text) }),
  items: (text) => ({ items: positiveInteger(text) }),
  cores: (text) => ({ cores: text === 'own' ? null : positiveInteger(text) }),
  rpc: (text) => ({ rpc: oneOf(RPC_MODES)(text) }),
  'batch-items': (text) => ({ batchItems: positiveInteger(text) }),
};

export const WHAT_IF_KEYS = Object.keys(KEYS);

/** Reads "shards=16,format=int8". An unknown key, a key given twice, a bad value and one without effect are refused (invalid_argument) with the key. */
export function parseWhatIf(text: string): Change {
  let change: Change = {};
  const seen = new Map<string, string>();
  for (const pair of text.split(',')) {
    const [key = '', value = '', ...more] = pair.split('=').map((part) => part.trim());
    const bad = (what: string): TerabagError => refused(what, pair.trim(), key);
    const read = Object.hasOwn(KEYS, key) ? KEYS[key] : undefined;
    if (read === undefined) throw bad(`no such key, there are ${WHAT_IF_KEYS.join(', ')}`);
    if (seen.has(key)) throw bad(`${key} is given twice`);
    if (value === '' || more.length > 0) throw bad('has to be KEY=VALUE');
    seen.set(key, pair.trim());
    try {
      change = { ...change, ...read(value) };
    } catch (error) {
      throw bad(error instanceof InvalidArgumentError ? error.message.replace(/\.$/, '') : String(error));
    }
  }
  const batches = seen.get('batch-items');
  if (batches !== undefined && change.rpc !== 'paper') throw refused('batch-items needs rpc=paper', batches, 'batch-items');
  return change;
}

const refused = (what: string, pair: string, field: string): TerabagError =>
  new TerabagError('invalid_argument', `what-if: ${what}: ${pair}`, { field });
