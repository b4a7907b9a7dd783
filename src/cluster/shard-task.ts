import type { Residency } from '../engine/residency.js';
import type { ErrorCode, ErrorDetails, TerabagError } from '../errors.js';
import type { Plan } from '../plan/file/plan.js';
import type { SecurityOptions } from '../rpc/transport/security.js';

/** What a launcher tells a shard's process, over their IPC channel: all of it, so that a restart needs no file of the launcher's. */
export interface ShardTask {
  readonly plan: Plan;
  readonly shard: string;
  /** Number among the shard's replicas, in the order of the plan's endpoints. */
  readonly replica: number;
  readonly bundle: string;
  readonly endpoint: string;
  readonly logLevel: LogLevel;
  readonly verify: 'full' | 'size';
  readonly residency: Residency;
  readonly drainMs: number;
  /** Listens only when it is told: another process of this replica serves until then. */
  readonly standby: boolean;
  /** How long a shard that was asked to end, by others than its launcher, serves on at most until its successor can. */
  readonly successorMs: number;
  readonly security?: SecurityOptions;
}

/** What a launcher tells a shard's process once it has its task. */
export type ShardCommand =
  /** Of one on standby. */
  'listen' | 'drain';

/** What a shard's process tells its launcher: that it serves, or why it does not. */
export type ShardReport =
  /** On standby, it has read and checked its tables. */
  | { readonly kind: 'loaded' }
  /** It was asked to end by others, and serves until it is told to drain. */
  | { readonly kind: 'leaving' }
  | { readonly kind: 'ready'; readonly endpoint: string }
  | { readonly kind: 'refused'; readonly code: ErrorCode; readonly message: string; readonly details: ErrorDetails };

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const;
/** @useDeclaredType */
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Errors of what a shard is given, which another start with the same does not mend. */
const PERMANENT: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'invalid_argument',
  'bad_model',
  'bad_table',
  'bad_plan',
  'checksum_mismatch',
  'model_mismatch',
  'does_not_fit',
  'native_addon',
  'unsupported',
]);

/** Whether a restart cannot succeed. An endpoint that is taken may be free again. */
export const isPermanent = ({ code, details }: TerabagError): boolean => PERMANENT.has(code) && details['endpoint'] === undefined;
