/** What the page shows: plain data, which its scripts read too, so that this file imports nothing. */

/** All that is served, over all processes of the server. */
export interface Snapshot {
  /** Ms since 1970. */
  readonly at: number;
  readonly server: {
    readonly version: string;
    readonly ready: boolean;
    readonly draining: boolean;
    readonly processes: number;
    /** Of the oldest process. */
    readonly uptimeMs: number;
  };
  /** Requests of the last minute that were refused or failed, by the code of their error. */
  readonly errors: Readonly<Record<string, number>>;
  readonly models: readonly ModelSnapshot[];
}

/** A version of a model. Rates are per second, over the latest seconds. */
export interface ModelSnapshot {
  readonly name: string;
  readonly version: string;
  readonly state: 'LOADING' | 'READY' | 'UNAVAILABLE';
  /** Why requests are not answered; empty when they are. */
  readonly reasons: readonly string[];
  /** Of the model's files; empty while it is not open. */
  readonly hash: string;
  /** Empty without a plan. */
  readonly planHash: string;
  readonly epoch: number;
  /** How long it has been open. */
  readonly openMs: number;
  readonly rates: { readonly requests: number; readonly errors: number; readonly items: number };
  /** Of the latest seconds; null when nothing was answered. */
  readonly latency: { readonly requests: number; readonly p50: number; readonly p95: number; readonly p99: number } | null;
  readonly inFlight: number;
  readonly concurrencyLimit: number;
  /** Counts of the predictor since it was opened, by name, where they are above 0. */
  readonly counts: Readonly<Record<string, number>>;
  /** Null where the predictor does not tell. */
  readonly tables: readonly TableSnapshot[] | null;
  readonly shards: readonly ShardSnapshot[];
  readonly traced: TracedSnapshot | null;
  /** Of the last minute, the slowest first. */
  readonly slowest: readonly SlowRequest[];
}

export interface TableSnapshot {
  readonly name: string;
  readonly rows: number;
  readonly dim: number;
  readonly format: string;
  readonly lookups: number;
  readonly unseen: number;
  /** Since its processes started. */
  readonly unseenTotal: number;
}

export interface ShardSnapshot {
  readonly name: string;
  /** The main shard itself, which has no replicas. */
  readonly main: boolean;
  readonly held: readonly { readonly table: number; readonly part: number; readonly parts: number; readonly bytes: number }[];
  readonly replicas: readonly ReplicaSnapshot[];
}

export const HEALTH = ['up', 'slow', 'ejected', 'draining', 'down'] as const;
export type Health = (typeof HEALTH)[number];

export interface ReplicaSnapshot {
  readonly endpoint: string;
  readonly health: Health;
  /** Why it is not up; empty when it is. */
  readonly why: string;
  readonly latencyMs: number | null;
  readonly roundTripMs: number | null;
  readonly inFlight: number;
  /** What it says of itself; null when it says nothing. */
  readonly stats: {
    readonly requests: number;
    readonly errors: number;
    readonly uptimeMs: number;
    readonly rssBytes: number;
    readonly tableBytes: number;
    readonly residentBytes: number | null;
  } | null;
}

/** Means over traced requests of the latest seconds, microseconds by layer. */
export interface TracedSnapshot {
  readonly requests: number;
  readonly latency: StackSnapshot;
  readonly embedded: StackSnapshot;
  /** Share of the requests whose last answer came from a shard, by its name. */
  readonly bounding: Readonly<Record<string, number>>;
}

export interface StackSnapshot {
  readonly totalUs: number;
  readonly layers: Readonly<Record<string, number>>;
}

export interface SlowRequest {
  /** Unique in the server. */
  readonly id: string;
  /** Ms since 1970, when it ended. */
  readonly at: number;
  readonly ms: number;
  readonly items: number;
  readonly error: string | null;
  readonly lanes: readonly { readonly name: string; readonly spans: readonly WaterfallSpan[] }[];
}

/** Microseconds from the request's start; layer as in the stacks. */
export interface WaterfallSpan {
  readonly layer: string;
  readonly what: string;
  readonly fromUs: number;
  readonly toUs: number;
}
