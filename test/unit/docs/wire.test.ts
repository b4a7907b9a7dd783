import { readFileSync } from 'node:fs';
import { Packr } from 'msgpackr';
import { expect, test } from 'vitest';
import { SEGMENT_DIVISOR, SEGMENT_FIELDS, SEGMENT_WEIGHTED } from '../../../src/engine/sparse-batch.js';
import { POOLINGS } from '../../../src/model/pooling.js';
import { decodeClientMessage, decodeShardMessage, encodeClientMessage } from '../../../src/rpc/codec.js';
import { type ClientMessage, SHARD_STAGES, type ShardMessage, WIRE_VERSION } from '../../../src/rpc/messages.js';
import { SHARD_STATS } from '../../../src/rpc/shard-stats.js';
import { encodeShardMessage } from '../../reference/messages.js';

const fromRoot = (path: string): string => readFileSync(new URL(`../../../${path}`, import.meta.url), 'utf8');
const page = fromRoot('docs/wire.md');
const CLIENT_KINDS = { hello: 0, pool: 0, cancel: 0, ping: 0, stats: 0 } satisfies Record<ClientMessage['kind'], 0>;
const SHARD_KINDS = { welcome: 0, pooled: 0, error: 0, pong: 0, stats: 0 } satisfies Record<ShardMessage['kind'], 0>;

/** What stands between a heading and the next of its level or above. */
function section(text: string, heading: string): string {
  const level = /^#+/.exec(heading)?.[0].length ?? 0;
  const rest = text.split(`\n${heading}\n`)[1] ?? '';
  return rest.split(new RegExp(`^#{1,${level}} `, 'm'))[0] ?? '';
}

/** Rows of the first table, without its head, with cells that are code as their text. */
function table(text: string): string[][] {
  const [, , ...rows] = /(?:^\|.*\n)+/m.exec(text)?.[0].trim().split('\n') ?? [];
  return rows.map((row) =>
    row
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim().replace(/^`([^`]*)`$/, '$1')),
  );
}

const examples = (text: string): Buffer[] =>
  [...text.matchAll(/```hex\n([^`]*)```/g)].map(([, hex = '']) => Buffer.from(hex.replaceAll(/\s/g, ''), 'hex'));

interface Side {
  readonly kinds: readonly string[];
  readonly text: string;
  decode(bytes: Uint8Array): Record<string, unknown>;
  recode(bytes: Uint8Array): Buffer;
}

const sides: Side[] = [
  {
    kinds: Object.keys(CLIENT_KINDS),
    text: section(page, '## Messages of a main shard'),
    decode: (bytes) => {
      const message = decodeClientMessage(bytes);
      return { ...message, ...(message.kind === 'pool' && message.batch), ...(message.kind === 'hello' && message.version) };
    },
    recode: (bytes) => encodeClientMessage(decodeClientMessage(bytes)),
  },
  {
    kinds: Object.keys(SHARD_KINDS),
    text: section(page, '## Messages of a shard'),
    decode: (bytes) => {
      const message = decodeShardMessage(bytes);
      return { ...message, ...(message.kind === 'welcome' && message.version) };
    },
    recode: (bytes) => encodeShardMessage(decodeShardMessage(bytes)),
  },
];

const headings = (text: string): string[] => [...text.matchAll(/^### (.+)$/gm)].map(([, heading = '']) => heading);
const kindOf = (heading: string): string => /^`(\w+)`/.exec(heading)?.[1] ?? heading;

test('docs/wire.md has a section for every kind of message, and for no other', () => {
  for (const { kinds, text } of sides) expect(headings(text).map(kindOf)).toEqual(kinds);
});

const isCount = (value: unknown): boolean => typeof value === 'number' && value >= 0;
const TYPES: Record<string, (value: unknown) => boolean> = {
  text: (value) => typeof value === 'string',
  id: (value) => Number.isSafeInteger(value) && isCount(value),
  number: isCount,
  flag: (value) => typeof value === 'boolean',
  binary: (value) => value instanceof Uint8Array,
  details: (value) => Object.values(value as object).every((entry) => ['string', 'number', 'boolean'].includes(typeof entry)),
  stats: (value) => Object.keys(value as object).length === Object.keys(SHARD_STATS).length,
  nil: (value) => value === null,
};
const packr = new Packr({ useRecords: false });
/** Stages are a list in the message that was read, and a binary in that which travels. */
const sent = (field: string, value: unknown): unknown =>
  field === 'stages' && Array.isArray(value) ? Buffer.from(Float64Array.from(value).buffer) : value;

const messages = sides.flatMap((side) =>
  headings(side.text).flatMap((heading) =>
    examples(section(side.text, `### ${heading}`)).map((bytes, n) => ({
      ...{ side, heading, bytes },
      name: `${heading}, example ${n + 1}`,
    })),
  ),
);

test('docs/wire.md has an example of every message', () => {
  expect(new Set(messages.map(({ heading }) => heading)).size).toBe(sides.flatMap(({ text }) => headings(text)).length);
});

test.each(messages)('docs/wire.md: $name is what is sent, with the fields of its table', ({ side, heading, bytes }) => {
  expect(side.recode(bytes).toString('hex')).toBe(bytes.toString('hex'));
  const fields = table(section(side.text, `### ${heading}`));
  const values = packr.unpack(bytes) as unknown[];
  const message: Record<string, unknown> = { ...side.decode(bytes), version: WIRE_VERSION };
  expect(message['kind']).toBe(kindOf(heading));
  expect(fields).toHaveLength(values.length);
  for (const [at, [field = '', type = '', meaning]] of fields.entries()) {
    expect(values[at], field).toEqual(sent(field, message[field]));
    expect(
      type.split(' or ').some((one) => TYPES[one]?.(values[at])),
      `${field} is ${type}`,
    ).toBe(true);
    expect(meaning, field).toBeTruthy();
  }
});

test('docs/wire.md is about this version', () => {
  expect(page).toMatch(new RegExp(`^Version ${WIRE_VERSION},`, 'm'));
  for (const { text } of sides) {
    for (const heading of headings(text)) expect(table(section(text, `### ${heading}`))[0]?.[2]).toMatch(new RegExp(`^${WIRE_VERSION}\\b`));
  }
});

test('docs/wire.md has the stages of a shard in their order, and the flags of a segment', () => {
  expect(table(section(page, '## Stages')).map(([stage]) => stage)).toEqual([...SHARD_STAGES]);
  const flags = [...Object.values(POOLINGS).map(({ flag }) => flag), SEGMENT_WEIGHTED, SEGMENT_DIVISOR];
  expect(table(section(page, '## A batch')).map(([flag]) => Number(flag))).toEqual(flags);
  expect(page).toContain(`\`[segments, ${SEGMENT_FIELDS}]\` uint32`);
});

/** A constant of a file, or a member of an object in it: numbers and other constants, multiplied and subtracted. */
function constant(name: string, source: string): number {
  const written = new RegExp(`(?:const ${name} =|^ +${name}:) ([^;,]+)[;,]`, 'm').exec(source)?.[1] ?? '';
  const factor = (text: string): number => (/^[\d_]+$/.test(text) ? Number(text.replaceAll('_', '')) : constant(text, source));
  const product = (text: string): number => text.split(' * ').reduce((sum, part) => sum * factor(part), 1);
  expect(written, name).not.toBe('');
  const [first = 0, ...others] = written.split(' - ').map(product);
  return others.reduce((sum, part) => sum - part, first);
}

test.each(table(section(page, '## Limits')))('docs/wire.md: the limit %s is %s in %s', (name, value, path) => {
  expect(constant(name as string, fromRoot(path as string))).toBe(Number(value));
});

test('docs/wire.md says what the limits of time are where it tells what happens', () => {
  const limits = new Map(table(section(page, '## Limits')).map(([name, value]) => [name, value]));
  expect(section(page, '## A connection')).toContain(`every ${limits.get('BEAT_MS')} ms`);
  expect(section(page, '## A connection')).toContain(`${limits.get('SILENT_BEATS')} heartbeats in a row`);
  expect(section(page, '## A request')).toContain(`${limits.get('DEFAULT_MAX_IN_FLIGHT')} requests in flight`);
});
