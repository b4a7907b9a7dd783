import type { IdRule } from '../../src/model/id-rules.js';

const BITS_64 = 2n ** 64n;
const unsigned = (id: bigint): bigint => ((id % BITS_64) + BITS_64) % BITS_64;

/** The finalizer of splitmix64, by its definition. */
export function splitmixFinalizer(key: bigint): bigint {
  const steps: readonly (readonly [shift: bigint, factor: bigint])[] = [
    [2n ** 30n, 0xbf58476d1ce4e5b9n],
    [2n ** 27n, 0x94d049bb133111ebn],
    [2n ** 31n, 1n],
  ];
  return steps.reduce((mixed, [shift, factor]) => unsigned((mixed ^ (mixed / shift)) * factor), unsigned(key));
}

/** What a bag gets for an id: a row of the table, a row of zeros, the rule's vector, nothing (it is left out), or an error. */
export type Found = number | 'zeros' | 'vector' | 'nothing' | 'error';

/** The plain definition of docs/model-json.md. */
export function found({ policy, paddingId, row, buckets }: IdRule, id: bigint, rows: number): Found {
  if (paddingId !== null && unsigned(id) === unsigned(paddingId)) return 'nothing';
  if (unsigned(id) < BigInt(rows)) return Number(unsigned(id));
  switch (policy) {
    case 'reject':
      return 'error';
    case 'zero':
      return 'zeros';
    case 'skip':
      return 'nothing';
    case 'hash':
      return (row ?? 0) + Number(splitmixFinalizer(id) % BigInt(buckets));
    case 'default':
      return row ?? 'vector';
  }
}

/** Whether the table counts the id as one that it did not have. */
export const isCounted = (rule: IdRule, id: bigint, rows: number): boolean => {
  const isPadding = rule.paddingId !== null && unsigned(id) === unsigned(rule.paddingId);
  return !isPadding && rule.policy !== 'reject' && unsigned(id) >= BigInt(rows);
};
