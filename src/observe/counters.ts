/** What a predictor tells of itself. Counters only grow; gauges are as they are now; counters: one by table, of those above 0. */
interface CounterSpec {
  readonly kind: 'counter' | 'counters' | 'gauge';
  readonly description: string;
}

/** What is counted of the main shard's RPCs, summed over the shards; bytes are those of whole messages, without what the transport adds. */
export const RPC_COUNTERS = {
  sent: { kind: 'counter', description: 'Requests to pool sent to shards, resent, retried and hedged ones included.' },
  resent: {
    kind: 'counter',
    description: 'Requests to pool sent again, since their shard, of which no replica was left, came back before their deadline.',
  },
  retries: {
    kind: 'counter',
    description:
      'Requests to pool sent to another replica, since the one that had them was lost, drained, refused them or gave no sound answer.',
  },
  hedges: { kind: 'counter', description: 'Requests to pool sent to another replica as well, since the first took longer than the P95.' },
  hedgesWon: { kind: 'counter', description: 'Requests that the other replica answered first.' },
  overBudget: { kind: 'counter', description: 'Retries and hedges that were not made at once, since the retry budget was used up.' },
  skew: { kind: 'counter', description: 'Answers and refusals of shards that serve another version than was asked for.' },
  corrupt: { kind: 'counter', description: 'Answers whose length or checksum was wrong.' },
  ejections: { kind: 'counter', description: 'Times that a replica was given no requests for a while, since its answers failed.' },
  refused: { kind: 'counter', description: 'Requests that waited, since the queue to their shard was full.' },
  cancelled: {
    kind: 'counter',
    description: 'Requests cancelled on their shard: aborted, failed elsewhere, past their deadline, or answered by another replica.',
  },
  bytesSent: { kind: 'counter', description: 'Bytes of requests to pool.' },
  bytesReceived: { kind: 'counter', description: 'Bytes of their answers.' },
  unmatched: { kind: 'counter', description: 'Answers that nothing waited for any more.' },
  malformed: { kind: 'counter', description: 'Messages that could not be read.' },
  lost: { kind: 'counter', description: 'Times that a ready shard was lost.' },
  unresolved: {
    kind: 'counter',
    description: 'Times that an endpoint could not be resolved to addresses: those that were known of it stay in use.',
  },
} as const satisfies Record<string, CounterSpec>;

/** The tables in this process, as they were after opening; left out where the system does not tell. */
export const TABLE_COUNTERS = {
  tableBytes: { kind: 'gauge', description: 'Bytes of the rows of all tables in this process.' },
  residentBytes: { kind: 'gauge', description: 'Bytes of these in memory.' },
  hugePageBytes: { kind: 'gauge', description: 'Bytes of these on huge pages.' },
  lockedBytes: { kind: 'gauge', description: 'Bytes of these locked in memory.' },
} as const satisfies Record<string, CounterSpec>;

/** All numbers of Predictor.stats(), by name: what they mean, and whether they only grow. */
export const PREDICTOR_COUNTERS = {
  requests: { kind: 'counter', description: 'Calls of predict.' },
  errors: { kind: 'counter', description: 'Calls of predict that ended with an error.' },
  overloaded: { kind: 'counter', description: 'Calls of predict that were refused as overloaded, here or by a shard; part of errors.' },
  inFlight: { kind: 'gauge', description: 'Requests whose callers wait.' },
  inFlightBytes: { kind: 'gauge', description: 'Bytes of ids, vectors, dense rows and scores of requests in flight or lingering.' },
  concurrencyLimit: {
    kind: 'gauge',
    description: 'Requests in flight beyond which others are refused, since they would miss their deadlines.',
  },
  lingering: { kind: 'gauge', description: 'Requests whose callers were told, while native threads still work for them.' },
  degraded: { kind: 'counter', description: 'Answers that were made without the vectors of a shard, and say so.' },
  nonFinite: { kind: 'counter', description: 'Answers in which a score is not finite.' },
  unseen: {
    kind: 'counters',
    description:
      "Ids that a table did not have and its rule let pass, as looked up (in each batch), by the table's name: of tables in this process, and of split ones.",
  },
  ...RPC_COUNTERS,
  ...TABLE_COUNTERS,
} as const satisfies Record<string, CounterSpec>;

export type RpcCounts = Readonly<Record<keyof typeof RPC_COUNTERS, number>>;
type TableCounts = Readonly<Record<keyof typeof TABLE_COUNTERS, number>>;

/** See PREDICTOR_COUNTERS. Without shards, what is counted of them is 0. @useDeclaredType */
export type PredictorStats = Readonly<Record<Exclude<keyof typeof PREDICTOR_COUNTERS, keyof TableCounts | 'unseen'>, number>> &
  Partial<TableCounts> & { readonly unseen: Readonly<Record<string, number>> };

/** What is counted in this process, without what is counted of each shard. */
export type OwnStats = Omit<PredictorStats, keyof RpcCounts>;

/** The sums of these counts, 0 of none. */
export function sumRpcCounts(counts: Iterable<RpcCounts>): RpcCounts {
  const sums = Object.fromEntries(Object.keys(RPC_COUNTERS).map((name) => [name, 0])) as Record<keyof RpcCounts, number>;
  for (const each of counts) for (const name of Object.keys(sums) as (keyof RpcCounts)[]) sums[name] += each[name];
  return sums;
}
