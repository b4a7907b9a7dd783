import type { TerabagError } from '../errors.js';

/** How a number of a shard's stats behaves: counters only grow, gauges are as they are now; counters: one by table, of those above 0. */
export type StatKind = 'text' | 'counter' | 'counters' | 'gauge' | 'optional';

export interface StatSpec {
  /** optional: a gauge, or null where the system does not tell. */
  readonly kind: StatKind;
  readonly description: string;
}

/** All that a shard says of itself, by name: what travels, what is checked when it arrives, and what it means. */
export const SHARD_STATS = {
  shard: { kind: 'text', description: 'Name of the shard in the plan.' },
  model: { kind: 'text', description: 'Hash of the model that it serves.' },
  plan: { kind: 'text', description: 'Hash of what its plan places where.' },
  epoch: { kind: 'gauge', description: 'Epoch of its plan.' },
  kernels: { kind: 'text', description: 'Kernels that it pools with.' },
  state: { kind: 'text', description: 'ready, or draining.' },
  uptimeMs: { kind: 'gauge', description: 'Milliseconds since it started to listen.' },
  requests: { kind: 'counter', description: 'Requests to pool that it received.' },
  errors: { kind: 'counter', description: 'Requests that it answered with an error.' },
  malformed: { kind: 'counter', description: 'Messages that could not be read.' },
  skew: { kind: 'counter', description: 'Requests that were of another version than it serves; part of errors.' },
  overloaded: { kind: 'counter', description: 'Requests that it refused for too many, or too many bytes, in flight; part of errors.' },
  expired: { kind: 'counter', description: 'Requests whose deadline had passed before they were answered; part of errors.' },
  cancelled: { kind: 'counter', description: 'Requests that main cancelled before they were answered.' },
  abandoned: { kind: 'counter', description: 'Requests whose peer was gone before they were answered: those that waited were not pooled.' },
  undeliverable: { kind: 'counter', description: 'Answers whose peer was gone, or did not read.' },
  connections: { kind: 'gauge', description: 'Connections that there are.' },
  strangers: {
    kind: 'counter',
    description: 'Connections that ended without a message: of peers without a key that is allowed, or that do not speak the protocol.',
  },
  cut: {
    kind: 'counter',
    description:
      'Connections that were cut off: too many, too many bytes, messages of several frames, answers that nobody reads, a key that is not allowed any more.',
  },
  inFlight: { kind: 'gauge', description: 'Requests that wait or are pooled.' },
  inFlightBytes: { kind: 'gauge', description: 'Bytes of these and of their answers.' },
  unseen: { kind: 'counters', description: 'Ids that a table did not have and its rule let pass, by the name of the table.' },
  cpuUserUs: { kind: 'counter', description: 'User CPU time of the process, us.' },
  cpuSystemUs: { kind: 'counter', description: 'System CPU time of the process, us.' },
  rssBytes: { kind: 'gauge', description: 'Resident memory of the process.' },
  replacedFiles: {
    kind: 'gauge',
    description: 'Files of its tables under whose names others lie by now: it serves the old ones.',
  },
  tableBytes: { kind: 'gauge', description: "Bytes of the shard's rows." },
  residentBytes: { kind: 'optional', description: 'Bytes of these in memory, as measured in the seconds before.' },
  hugePageBytes: { kind: 'optional', description: 'Bytes of these mapped by 2 MiB pages.' },
  lockedBytes: { kind: 'optional', description: 'Bytes of these locked in memory.' },
} as const satisfies Record<string, StatSpec>;

export type StatValue<K extends StatKind> = K extends 'text'
  ? string
  : K extends 'counters'
    ? Readonly<Record<string, number>>
    : K extends 'optional'
      ? number | null
      : number;

export type ShardStats = { readonly [name in keyof typeof SHARD_STATS]: StatValue<(typeof SHARD_STATS)[name]['kind']> };

/** What a replica of a shard says of itself, or why it says nothing. endpoint is null where none of the shard is known. */
export type ReplicaStats = { readonly shard: string } & (
  | { readonly endpoint: string; readonly stats: ShardStats; readonly error: null }
  | { readonly endpoint: string | null; readonly stats: null; readonly error: TerabagError }
);

const isCount = (value: unknown): boolean => typeof value === 'number' && Number.isFinite(value) && value >= 0;
const isMap = (value: unknown): value is object => typeof value === 'object' && value !== null && !Array.isArray(value);

/** What a stat of each kind has to be. */
const SOUND: Readonly<Record<StatKind, { readonly expected: string; readonly holds: (value: unknown) => boolean }>> = {
  text: { expected: 'a string', holds: (value) => typeof value === 'string' },
  counter: { expected: 'a number, 0 or more', holds: isCount },
  counters: {
    expected: 'a map of numbers, 0 or more',
    holds: (value) => isMap(value) && !ArrayBuffer.isView(value) && Object.values(value).every(isCount),
  },
  gauge: { expected: 'a number, 0 or more', holds: isCount },
  optional: { expected: 'a number, 0 or more, or null', holds: (value) => value === null || isCount(value) },
};

/** What is wrong with stats that arrived, as the field and what it has to be; null when they are sound. */
export function unsoundStat(stats: Readonly<Record<string, unknown>>): { readonly field: string; readonly expected: string } | null {
  for (const [field, { kind }] of Object.entries(SHARD_STATS)) {
    const value = Object.hasOwn(stats, field) ? stats[field] : undefined;
    const { expected, holds } = SOUND[kind];
    if (!holds(value)) return { field, expected };
  }
  const unknown = Object.keys(stats).find((field) => !Object.hasOwn(SHARD_STATS, field));
  return unknown === undefined ? null : { field: unknown, expected: 'absent: no such stat' };
}
