import { badModel } from './bad-model.js';
import type { ModelSpec, TableSpec } from './spec.js';
import type { UnseenPolicy, UnseenSpec } from './unseen.js';

/** What becomes of the ids that a layer reads, as the addon takes it. */
export interface IdRule {
  readonly policy: UnseenPolicy;
  /** A signed integer of 64 bits; null: none is padding. */
  readonly paddingId: bigint | null;
  /** default: a row of the table; or null, and there is a vector. hash: the first of the rows that ids get; null: the table's first. */
  readonly row: number | null;
  readonly vector: Float32Array | null;
  /** hash: how many rows, from the first on, the ids get; else 0. */
  readonly buckets: number;
}

export interface BagRule extends IdRule {
  /** Among the rules of its table: what a segment says. */
  readonly number: number;
  /** paddingId as requests are read: a number where that is exact. */
  readonly padding: number | bigint | null;
}

/** Of tables and layers that say nothing of it. */
export const REJECT: IdRule = { policy: 'reject', paddingId: null, row: null, vector: null, buckets: 0 };
export const REJECTS: BagRule = { ...REJECT, number: 0, padding: null };

/** A signed integer of 64 bits as a number where that is exact. */
export const plainId = (id: bigint): number | bigint => {
  const number = Number(id);
  return Number.isSafeInteger(number) ? number : id;
};

export interface IdRules {
  /** By table: those of the layers that read it, each once, in the order of the first that has it. At least one. */
  readonly ofTables: readonly (readonly IdRule[])[];
  /** By layer that reads ids, in the model's order. */
  readonly ofBags: readonly BagRule[];
}

/** The rules of a model, the same on main and on all shards. Throws bad_model with the place of one that does not fit its table. */
export function idRules(spec: ModelSpec): IdRules {
  const tables = new Map(
    spec.tables.map((table, t) => [
      table.name,
      { table, rule: ruleOf(table.unseen, null, `tables[${t}].unseen`, table), rules: [] as IdRule[] },
    ]),
  );
  const ofBags = spec.nets.flatMap(({ layers }, n) =>
    layers.flatMap((layer, l): BagRule[] => {
      const found = 'table' in layer ? tables.get(layer.table) : undefined;
      if (!('table' in layer) || found === undefined) return [];
      const paddingId = layer.paddingId === undefined ? null : BigInt.asIntN(64, BigInt(layer.paddingId));
      const path = `nets[${n}].layers[${l}].unseen`;
      const rule = layer.unseen === undefined ? { ...found.rule, paddingId } : ruleOf(layer.unseen, paddingId, path, found.table);
      let number = found.rules.findIndex((other) => sameRule(other, rule));
      if (number === -1) number = found.rules.push(rule) - 1;
      return [{ ...rule, number, padding: paddingId === null ? null : plainId(paddingId) }];
    }),
  );
  return { ofTables: [...tables.values()].map(({ rule, rules }) => (rules.length === 0 ? [rule] : rules)), ofBags };
}

/**
 * What is left of a rule on one part of a table that is split by rows. Main looks at each id of such tables (split-rows.ts): it leaves out
 * what is skipped, and asks for the rows that rules name where they lie. What comes to a part as no row of it is its zeros or its vector.
 */
export function ruleOfPart(rule: IdRule): IdRule {
  const isRow = rule.policy === 'hash' || rule.row !== null;
  return isRow ? REJECT : { ...rule, paddingId: null };
}

/** Rows of a table that rules give to ids without one: the first `buckets`, and further ones in ascending order. */
export interface NamedRows {
  readonly buckets: number;
  readonly others: readonly number[];
}

export function namedRows(rules: readonly Pick<IdRule, 'row' | 'buckets'>[]): NamedRows {
  const buckets = Math.max(0, ...rules.map((rule) => rule.buckets));
  const others = new Set(rules.flatMap(({ row }) => (row === null || row < buckets ? [] : [row])));
  return { buckets, others: [...others].sort((a, b) => a - b) };
}

export const countNamed = ({ buckets, others }: NamedRows): number => buckets + others.length;

/**
 * A rule of a published part of a keyed table. Behind the part's own rows it has copies of those that rules name, in their order: an id without
 * a row is told there, and gets one that may be another part's.
 */
export function ruleOfKeyedPart(rule: IdRule, ownRows: number, { buckets, others }: NamedRows): IdRule {
  if (rule.policy === 'hash') return { ...rule, row: ownRows };
  if (rule.row === null) return rule;
  return { ...rule, row: ownRows + (rule.row < buckets ? rule.row : buckets + others.indexOf(rule.row)) };
}

function ruleOf(unseen: UnseenSpec | undefined, paddingId: bigint | null, path: string, { rows, dim, keys }: TableSpec): IdRule {
  if (unseen === undefined) return { ...REJECT, paddingId };
  const { policy, row, vector } = unseen;
  const refuse = (key: keyof UnseenSpec, what: string) => badModel(`${path}.${key}`, what);
  if (policy !== 'default' && row !== undefined) throw refuse('row', `goes with policy default only: ${policy}`);
  if (policy !== 'default' && vector !== undefined) throw refuse('vector', `goes with policy default only: ${policy}`);
  if (policy !== 'hash' && unseen.rows !== undefined) throw refuse('rows', `goes with policy hash only: ${policy}`);
  if (policy === 'default' && (row === undefined) === (vector === undefined))
    throw refuse('policy', `default needs either row or vector: ${row === undefined ? 'none is given' : 'both are given'}`);
  if (row !== undefined && row >= rows) throw refuse('row', `has to be a row of the table: ${row}, rows ${rows}`);
  if (vector !== undefined && vector.length !== dim)
    throw refuse('vector', `has to have a value for each of the row: ${vector.length}, dim ${dim}`);
  if (policy === 'hash' && keys !== undefined && unseen.rows === undefined)
    throw refuse('rows', 'has to say how many rows of a keyed table are kept for such ids: none is given');
  const { rows: buckets = rows } = unseen;
  if (buckets > rows) throw refuse('rows', `has to be at most the rows of the table: ${buckets}, rows ${rows}`);
  return {
    policy,
    paddingId,
    row: row ?? null,
    vector: vector === undefined ? null : Float32Array.from(vector),
    buckets: policy === 'hash' ? buckets : 0,
  };
}

function sameRule(a: IdRule, b: IdRule): boolean {
  const sameVector =
    a.vector === b.vector || (a.vector !== null && b.vector !== null && a.vector.every((value, d) => Object.is(value, b.vector?.[d])));
  return a.policy === b.policy && a.paddingId === b.paddingId && a.row === b.row && a.buckets === b.buckets && sameVector;
}
