import { TerabagError } from '../errors.js';
import { type OpenKeyIndex, openBundle, verifyBundle } from '../model/bundle.js';
import { type NativeKeyIndexReport, type NativeStatusError, native } from './native.js';

const FAULTS: Readonly<Record<Exclude<NativeKeyIndexReport['fault'], 'none'>, string>> = {
  slots: 'a key lies behind a slot that is not used, or keys are said to lie further on than any is looked for',
  row: 'a key has a row that the table does not have',
  row_twice: 'two keys have one row',
  place: 'a key lies where nobody looks for it',
  count: 'not every row has a key',
};

/**
 * Checks every file of a bundle, and that in each key index every row has one key that is found; what is wrong, one line per file and index. An
 * index whose checksum is right may still have been written wrong.
 */
export async function verifyBundleAndIndexes(dir: string, onProgress?: (doneBytes: number, totalBytes: number) => void): Promise<string[]> {
  const problems = await verifyBundle(dir, onProgress);
  const opened = await openBundle(dir, { verify: 'later', dense: false }).catch(() => null);
  // What kept it from being opened was found before.
  for (const table of opened?.tables ?? []) {
    const problem = table?.index ? await indexProblem(table.spec.name, table.index) : null;
    if (problem !== null) problems.push(problem);
  }
  return problems;
}

/** What is wrong with the index of a table; null when all is well. */
async function indexProblem(table: string, { path, byteOffset, buckets, keys, seed }: OpenKeyIndex): Promise<string | null> {
  const { fault, bucket } = await native.checkKeyIndex(path, byteOffset, buckets, keys, seed).catch((error: Partial<NativeStatusError>) => {
    const code = error.status === 'unreadable' ? 'bad_table' : error.status === 'out_of_memory' ? 'overloaded' : 'internal';
    throw new TerabagError(code, `key index of table ${table} cannot be checked: ${error.message}`, { table, path }, { cause: error });
  });
  if (fault === 'none') return null;
  return `key index of table ${table} is damaged: ${FAULTS[fault]}: ${path}, bucket ${bucket}`;
}
