import type { TerabagError } from '../../errors.js';
import type { RpcSpan } from '../../observe/spans.js';
import { Due } from '../due-list.js';
import type { LinkAttempt } from '../link.js';
import type { Lent } from '../transport/buffer-pool.js';
import type { Replica } from './replica.js';

/** Pooled vectors, in the message that brought them: to be released when they are read. */
export interface Answer {
  readonly pooled: Uint8Array;
  readonly message: Lent;
}

/** What a call needs to end. */
export interface CallOptions {
  /** The request, encoded; released with the call. */
  readonly message: Lent;
  readonly answerBytes: number;
  readonly deadlineAt: number;
  readonly signal: AbortSignal | null;
  readonly rpc: RpcSpan | null;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: TerabagError) => void;
  readonly onAbort: (call: Call, signal: AbortSignal | null) => void;
}

const NONE: ReadonlyMap<Replica<Attempt>, TerabagError> = new Map();

/** One request to a shard, from its asking to its end; due at its deadline. At most two attempts are out at a time, the second to hedge the first. */
export class Call extends Due {
  /** Those that wait for their answers. */
  attempt: Attempt | null = null;
  hedge: Attempt | null = null;
  /** Has been, and is not again. */
  hedged = false;
  /** Was on its way to a shard at least once. */
  wasSent = false;
  /** Replicas that could not answer, where another might, and why. */
  failures = NONE;

  constructor(private readonly options: CallOptions) {
    super();
    const { signal, rpc } = options;
    signal?.addEventListener('abort', this.#onAbort);
    rpc?.hold();
  }

  readonly #onAbort = (): void => this.options.onAbort(this, this.options.signal);

  get message(): Lent {
    return this.options.message;
  }

  get answerBytes(): number {
    return this.options.answerBytes;
  }

  get deadlineAt(): number {
    return this.options.deadlineAt;
  }

  get rpc(): RpcSpan | null {
    return this.options.rpc;
  }

  /** An attempt that waits for its answer, if any. */
  get outstanding(): Attempt | null {
    return this.attempt ?? this.hedge;
  }

  failedOn(replica: Replica<Attempt>, error: TerabagError): void {
    this.failures = new Map([...this.failures, [replica, error]]);
  }

  resolve(answer: Answer): void {
    this.#end();
    this.options.resolve(answer);
  }

  reject(error: TerabagError): void {
    this.#end();
    this.options.reject(error);
  }

  #end(): void {
    const { signal, message, rpc } = this.options;
    signal?.removeEventListener('abort', this.#onAbort);
    message.release();
    rpc?.letGo();
  }
}

/** One sending of a call to one replica; due when it is to be hedged. */
export class Attempt extends Due implements LinkAttempt {
  sent = false;

  constructor(
    readonly id: number,
    readonly call: Call,
    readonly replica: Replica<Attempt>,
    readonly startedAt: number,
    /** Encoded anew; null for that of the call. */
    private readonly own: Lent | null,
  ) {
    super();
  }

  get bytes(): Uint8Array {
    return (this.own ?? this.call.message).bytes;
  }

  get answerBytes(): number {
    return this.call.answerBytes;
  }

  markSent(): void {
    this.sent = true;
    this.call.wasSent = true;
    // What a hedged request takes is told from the first attempt on.
    if (this.call.hedge !== this) this.call.rpc?.sent();
    this.own?.release();
  }

  /** It was never sent, and is not going to be. */
  drop(): void {
    if (!this.sent) this.own?.release();
  }
}
