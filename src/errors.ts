/** Every code, in the order of docs/errors.md, which says when each comes and what to do. */
export const ERROR_CODES = [
  'invalid_argument',
  'not_found',
  'index_out_of_range',
  'bad_offsets',
  'bad_model',
  'bad_table',
  'bad_plan',
  'bad_checkpoint',
  'checksum_mismatch',
  'model_mismatch',
  'version_mismatch',
  'version_skew',
  'does_not_fit',
  'deadline_exceeded',
  'aborted',
  'overloaded',
  'draining',
  'shard_unavailable',
  'bad_message',
  'closed',
  'native_addon',
  'unsupported',
  'internal',
] as const;

/** What went wrong, as a stable word that programs can test for. */
export type ErrorCode = (typeof ERROR_CODES)[number];

/** Fields that locate an error: table, bag, position, shard, path... Plain JSON values, so that they travel on the wire. */
export type ErrorDetails = Readonly<Record<string, string | number | boolean>>;

/** What the process or the machine is short of. */
interface Shortage {
  /** overloaded: another attempt may succeed. */
  readonly code: ErrorCode;
  readonly help: string;
}

const SHORTAGES: ReadonlyMap<string, Shortage> = new Map([
  ['EMFILE', { code: 'overloaded', help: 'the process has too many files open; raise its limit (ulimit -n, systemd LimitNOFILE)' }],
  ['ENFILE', { code: 'overloaded', help: 'the machine has too many files open; raise fs.file-max' }],
  ['ENOMEM', { code: 'does_not_fit', help: 'the process has no memory, address space or mappings left (ulimit -v, vm.max_map_count)' }],
]);

/** By the system's name of an error; null when what was asked for is to blame: a file, an endpoint. */
export const shortageOf = (reason: string | null): Shortage | null => (reason === null ? null : (SHORTAGES.get(reason) ?? null));

/** The one error class of Terabag. The message ends with the run-time values. */
export class TerabagError extends Error {
  override readonly name = 'TerabagError';

  constructor(
    readonly code: ErrorCode,
    message: string,
    readonly details: ErrorDetails = {},
    options?: ErrorOptions,
  ) {
    super(message, options);
  }

  /**
   * For what is refused by design, many thousand times a second: a stack costs 8 to 15 us, ten times all else of a refusal, and would say no more than
   * the message.
   */
  static withoutStack(code: ErrorCode, message: string, details: ErrorDetails = {}): TerabagError {
    const { stackTraceLimit } = Error;
    // Not an assignment: intrinsics may be frozen.
    Reflect.set(Error, 'stackTraceLimit', 0);
    try {
      return new TerabagError(code, message, details);
    } finally {
      Reflect.set(Error, 'stackTraceLimit', stackTraceLimit);
    }
  }

  /** Wraps anything thrown; a TerabagError passes through unchanged, and a shortage of the machine gets its own code. */
  static from(thrown: unknown, code: ErrorCode = 'internal'): TerabagError {
    if (thrown instanceof TerabagError) return thrown;
    const message = thrown instanceof Error ? thrown.message : String(thrown);
    const reason = thrown instanceof Error && 'code' in thrown && typeof thrown.code === 'string' ? thrown.code : null;
    const shortage = shortageOf(reason);
    if (shortage === null || reason === null) return new TerabagError(code, message, {}, { cause: thrown });
    return new TerabagError(shortage.code, `${message}: ${shortage.help}`, { reason }, { cause: thrown });
  }
}

/** An option that is one of a few words, for callers whose types nobody checks: one that is not known is refused (invalid_argument). */
export function oneOf<Word extends string>(field: string, value: unknown, words: readonly Word[]): Word {
  const known = words.find((word) => word === value);
  if (known !== undefined) return known;
  throw wrongKind(field, `one of ${words.join(', ')}`, value);
}

/** What names a file or a directory, likewise. */
export function aPath(field: string, value: unknown): string {
  if (typeof value === 'string' && value !== '') return value;
  throw wrongKind(field, 'a path', value);
}

/** Options, likewise. */
export function anObject<T>(field: string, value: T): T {
  if (typeof value === 'object' && value !== null) return value;
  throw wrongKind(field, 'an object', value);
}

/** What ends a call when it is aborted, likewise; not instanceof, since it may come from another realm. */
export function aSignal(field: string, value: AbortSignal | null | undefined): void {
  if (value === null || value === undefined || typeof value.addEventListener === 'function') return;
  throw wrongKind(field, 'an AbortSignal', value);
}

function wrongKind(field: string, right: string, value: unknown): TerabagError {
  const given = typeof value === 'string' ? value : value === null || value === undefined ? String(value) : `a ${typeof value}`;
  return new TerabagError('invalid_argument', `${field} has to be ${right}: ${given}`, { field });
}
