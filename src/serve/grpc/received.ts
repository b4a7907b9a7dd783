import { constants, type ServerHttp2Stream } from 'node:http2';
import { type Metadata, ServerInterceptingCall, type ServerInterceptor, type ServerListener, status as Status } from '@grpc/grpc-js';
import type { ByteBudget } from '../../byte-budget.js';
import { TerabagError } from '../../errors.js';
import type { Tokens } from '../security/tokens.js';
import { type CallStatus, callStatus, statusOf } from './status.js';

/** A message of a client, decompressed. Its bytes count against the budget until what uses it has ended. */
export class ReceivedMessage {
  constructor(
    readonly bytes: Buffer,
    private readonly budget: ByteBudget,
    private held: number,
    private readonly onUse: (message: ReceivedMessage) => void,
  ) {}

  async use<T>(run: (message: ReceivedMessage) => T | Promise<T>): Promise<T> {
    this.onUse(this);
    try {
      return await run(this);
    } finally {
      this.release();
    }
  }

  /** What reading it takes beside its bytes. Throws overloaded. */
  hold(bytes: number): void {
    if (!this.budget.take(bytes)) throw tooMany(this.budget);
    this.held += bytes;
  }

  release(): void {
    this.budget.giveBack(this.held);
    this.held = 0;
  }
}

export interface ReceiveOptions {
  /** Bytes of a message, decompressed. */
  readonly maxBytes: number;
  /** A message has to be whole so long after it began. */
  readonly wholeMs: number;
  /** Of all messages that are held, whole or not. */
  readonly budget: ByteBudget;
  readonly tokens: Tokens | undefined;
  /** Paths of methods that need no token. */
  readonly open: ReadonlySet<string>;
}

/** The most that deflate makes of a byte. */
const MOST_RATIO = 1032;
/** Of a message on the wire: whether it is compressed, and its length. */
const PREFIX_BYTES = 5;

const tooMany = ({ held, most }: ByteBudget): TerabagError =>
  TerabagError.withoutStack('overloaded', `messages of requests hold too many bytes: ${held} of ${most}`);

/** Asks for a token where there are some, counts what calls hold, and hands on each message as a ReceivedMessage. */
export const receiver =
  (options: ReceiveOptions): ServerInterceptor =>
  ({ path }, call) => {
    const { tokens, open } = options;
    // grpc-js tells of messages only when they are whole; the stream is a field of its own.
    const { stream } = call as unknown as { readonly stream: ServerHttp2Stream };
    const held = new CallMessages(stream, options, (refusal) => {
      call.sendStatus(refusal);
      // The client may be within a message, whose bytes would be kept as long as it likes.
      stream.close(constants.NGHTTP2_NO_ERROR);
    });
    const listener: ServerListener = {
      onReceiveMetadata(metadata: Metadata, next: (metadata: Metadata) => void) {
        if (tokens === undefined || open.has(path) || tokens.accepts(authorization(metadata))) next(metadata);
        else call.sendStatus(callStatus(Status.UNAUTHENTICATED, 'a bearer token is needed: authorization: Bearer TOKEN'));
      },
      onReceiveMessage(message: Buffer, next: (message: ReceivedMessage) => void) {
        next(held.whole(message));
      },
    };
    return new ServerInterceptingCall(call, { start: (next) => next(listener) });
  };

const authorization = (metadata: Metadata): string | undefined => metadata.get('authorization')[0]?.toString();

/** What the messages of one call hold: the one that is coming, those that grpc-js has, and those that no handler has begun with. */
class CallMessages {
  #prefix = 0;
  #compressed = false;
  #left = 0;
  /** Of the message that is coming. */
  #coming = 0;
  #timer: NodeJS.Timeout | null = null;
  /** By message, of those that are whole. */
  readonly #whole: number[] = [];
  readonly #waiting = new Set<ReceivedMessage>();
  #ended = false;

  constructor(
    stream: ServerHttp2Stream,
    private readonly options: ReceiveOptions,
    private readonly refuse: (status: CallStatus) => void,
  ) {
    // Before grpc-js has it: what it decompresses then is held already. A plain listener would let the stream flow.
    stream.prependListener('data', (chunk: Buffer) => this.#take(chunk));
    stream.once('close', () => this.#end());
  }

  #take(chunk: Buffer): void {
    if (this.#ended) return;
    let at = 0;
    while (at < chunk.length) {
      if (this.#prefix < PREFIX_BYTES) {
        const byte = chunk[at++] as number;
        if (this.#prefix === 0) this.#compressed = byte !== 0;
        else this.#left = this.#left * 256 + byte;
        this.#prefix++;
        if (this.#left > this.options.maxBytes) {
          // grpc-js refuses it.
          this.#end();
          return;
        }
        if (this.#prefix < PREFIX_BYTES) continue;
      }
      const bytes = Math.min(this.#left, chunk.length - at);
      if (!this.#hold(bytes)) return;
      this.#left -= bytes;
      at += bytes;
      if (this.#left === 0 && !this.#finish()) return;
    }
    if (this.#prefix > 0 && this.#timer === null) this.#timer = setTimeout(() => this.#late(), this.options.wholeMs).unref();
  }

  #finish(): boolean {
    const { maxBytes, budget } = this.options;
    // A small message may become a large one: as much as it may is held before.
    if (this.#compressed && !this.#hold(Math.min(maxBytes, budget.most - budget.held, this.#coming * MOST_RATIO))) return false;
    this.#whole.push(this.#coming);
    this.#coming = this.#prefix = 0;
    this.#stopTimer();
    return true;
  }

  #hold(bytes: number): boolean {
    const { budget } = this.options;
    if (bytes === 0 || budget.take(bytes)) {
      this.#coming += bytes;
      return true;
    }
    const refusal = statusOf(tooMany(budget));
    this.#end();
    this.refuse(refusal);
    return false;
  }

  #late(): void {
    this.#end();
    this.refuse(callStatus(Status.DEADLINE_EXCEEDED, `the message was not whole after ${this.options.wholeMs / 1000} s`));
  }

  /** The next message, as grpc-js hands it on. */
  whole(bytes: Buffer): ReceivedMessage {
    const { budget } = this.options;
    const held = this.#whole.shift() ?? 0;
    const needed = Math.min(held, bytes.length);
    budget.giveBack(held - needed);
    const message = new ReceivedMessage(bytes, budget, needed, (used) => this.#waiting.delete(used));
    if (!this.#ended) this.#waiting.add(message);
    return message;
  }

  #end(): void {
    this.#ended = true;
    this.#stopTimer();
    const { budget } = this.options;
    budget.giveBack(this.#whole.splice(0).reduce((sum, held) => sum + held, this.#coming));
    this.#coming = 0;
    for (const message of this.#waiting) message.release();
    this.#waiting.clear();
  }

  #stopTimer(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}
