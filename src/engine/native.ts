import type { PlainFormat, RowFormat } from '../model/formats.js';
import type { IdRule } from '../model/id-rules.js';
import type { Op, OpAttributes } from '../model/ops.js';
import { loadAddon } from './load-addon.js';
import type { Prefetch, TunedPrefetch } from './prefetch.js';
import type { MeasuredFile, Residency } from './residency.js';
import { checkVocabulary, type NativeVocabulary } from './vocabulary.js';

/** Where the index of a keyed table lies: `buckets` of 64 bytes each, for so many keys. */
export interface NativeKeyIndex {
  readonly path: string;
  readonly byteOffset: number;
  readonly buckets: number;
  readonly keys: number;
  readonly seed: number;
}

/** A table, or one part of a row-wise split table, as the addon maps it. Logical row r of the part is file row firstRow + r * rowStep. */
export interface NativeTable {
  /** Index of the table in the model, as in segments. */
  readonly table: number;
  /** Part of a row-wise split: rows r with r mod parts == part. 0 of 1 when not split. */
  readonly part: number;
  readonly parts: number;
  /** File that holds the rows; mapped read-only and shared between tables of the same path, or copied (residency hugepages). */
  readonly path: string;
  /** Where file row 0 starts, bytes from the start of the file. */
  readonly byteOffset: number;
  /** Logical rows of this part. */
  readonly rows: number;
  /** Rows behind these, which no id has: only rules name them, by numbers from `rows` on. Left out: none. */
  readonly fallbackRows?: number;
  readonly dim: number;
  readonly format: RowFormat;
  readonly firstRow: number;
  readonly rowStep: number;
  /** By the number that segments name; at least one. When left out, ids that the table does not have are refused. */
  readonly rules?: readonly IdRule[];
  /** Of a keyed table, all of whose rows are mapped (firstRow 0, rowStep 1), whatever its part; null or left out: ids are rows. */
  readonly keys?: NativeKeyIndex | null;
}

/**
 * Pools whole requests. A batch of bags is:
 * - segments: 5 little-endian uint32 each: table, part, parts, number of bags, flags (bit 1: weighted; bit 4: with divisors; the others of the lower
 *   16: the pooling, see POOLINGS; the upper 16: the number of the rule of its ids, among those of the table);
 * - indices: int32 or int64 (indexBytes 4 or 8) of all segments one after another;
 * - offsets: uint32, (sum of bags) + 1, starting at 0, never decreasing, ending at the number of indices;
 * - weights: float32 of the weighted segments only, one per index of these.
 * All are byte views of any alignment. Everything is checked before memory is read through it.
 * out receives [bags, dim] float32 per segment, one after another, [bags, dim + 1] of one with divisors; its length has to match exactly. On an
 * error its content is unspecified.
 * All segments are checked before the first is pooled, apart from the indices, which are checked one by one on the way.
 * Into times of pool (null: nothing is measured) go three microseconds from timesAt on: from the call to the job's start on its thread, from there to
 * its end, and its CPU time on all threads: by their clocks when that field was not 0 before, else the time it ran.
 * Errors carry {status, segment, bag, position, value, limit}; position counts from the segment's first index.
 */
export interface NativeSparseEngine {
  /** [sync] */
  poolSync(
    segments: Uint8Array,
    indexBytes: number,
    indices: Uint8Array,
    offsets: Uint8Array,
    weights: Uint8Array | null,
    out: Float32Array,
  ): void;
  /** [async] on an addon thread; buffers must not be touched, transferred or detached until it settles. Like all that run there, it throws {status:
   * out_of_memory} when there is no memory or no thread for the job. */
  pool(
    segments: Uint8Array,
    indexBytes: number,
    indices: Uint8Array,
    offsets: Uint8Array,
    weights: Uint8Array | null,
    out: Float32Array,
    times?: Float64Array | null,
    timesAt?: number,
  ): Promise<void>;
  /**
   * [async] Brings all rows into memory as the residency says, on an addon thread; once, before the first pooling: rows of hugepages are zeros
   * until then. close() ends it. Errors carry {status}: unreadable (the file was shortened or replaced, or the disk fails), does_not_fit, closed.
   */
  fill(): Promise<void>;
  /**
   * [async] Measures which prefetch distance pools random rows of each length fastest, some milliseconds for each on an addon thread, and uses it from
   * then on. Tables of less than 64 MiB keep what they have, and are not told of. Rows should be in memory. Empty when memory runs out.
   */
  tunePrefetch(): Promise<TunedPrefetch[]>;
  /** [sync] How often tables did not have an id, and the rule was not to reject it; of tables where that happened, parts of one each for itself. */
  unseen(): { readonly table: number; readonly count: number }[];
  /** [sync] Bytes of the rows that fill has done so far. */
  filledBytes(): number;
  /** [sync] Bytes of all rows and key indexes; those that several tables share count once, unless they are copied. */
  tableBytes(): number;
  /** [sync] Bytes that fill keeps from being reclaimed: those it locks or copies; 0 with map and populate. */
  keptBytes(): number;
  /**
   * [async] What is in memory, per file in the order of their paths. With mapCached, what the page cache already holds is mapped before, so
   * that smaps tells on which pages it lies; nothing is read from the disk. Empty when memory runs out.
   */
  residency(mapCached: boolean): Promise<MeasuredFile[]>;
  /**
   * [async] Writes what waits to be written of mapped files and drops them from the page cache, as far as no other mapping uses them. Paths
   * that are not of this engine's mapped tables are passed over. Errors carry {status}: unreadable.
   */
  dropCached(paths: readonly string[]): Promise<void>;
  /** [sync] Refuses new work; memory is unmapped on an addon thread when running jobs have ended. */
  close(): void;
}

export interface NativeStatusError extends Error {
  /** index_out_of_range | bad_offsets | bad_segments | bad_weights | bad_output | out_of_memory | bad_lengths | closed; of tables: unreadable | does_not_fit | closed */
  readonly status: string;
  /** From opening or filling tables: errno of the system call that failed, positive. */
  readonly errno?: number;
  readonly segment: number;
  readonly bag: number;
  readonly position: number;
  readonly value: string;
  readonly limit: string;
}

/** One layer; values are numbered: inputs first (dense features, then bags, in model order), then one per layer. */
export interface NativeLayer extends Omit<OpAttributes, 'tensors'> {
  readonly op: Op;
  readonly inputs: readonly number[];
  /** Output dim. */
  readonly dim: number;
  /** Layers of stage 0 read dense features only; a layer reads no value of a later stage. */
  readonly stage: number;
  /** Those of the operation, as OpAttributes lists them, row-major; copied. */
  readonly tensors: readonly (Float32Array | null)[];
}

/**
 * Runs the layers on batches. A value has 1 row (the same for every item) or `items` rows. An item's scores have the same bits in every batch.
 * Numbers have to be integers in their range; nothing is truncated.
 * Into times (null: nothing is measured) go five microseconds from timesAt on: the three of NativeSparseEngine, then the time in dot
 * interactions and that in all layers, both summed over the threads that took part.
 */
export interface NativeDenseNet {
  /** [sync] Buffers of one request, reused from request to request. Not for two runs at once. */
  createWorkspace(): NativeWorkspace;
  /**
   * [sync] Runs the layers of one stage; stages run in order, on one workspace, with the same items and perItem. dense: the dense features' rows
   * one after another; pooled: likewise the bags' (null in stage 0), of a sequence all positions, zeros behind its last; perItem[i] is 1 when input i
   * has `items` rows, 0 when it has 1, 2 when it has one for each of the groups, consecutive items, one or more in each. lengths: of each sequence those of its rows, at most its positions (null in stage 0, and without
   * sequences); those of sequences that a layer reads together have to be equal: status bad_lengths. output (last stage, 1 or more; else null):
   * [items, dim of the output] float32.
   */
  runSync(
    workspace: NativeWorkspace,
    stage: number,
    items: number,
    perItem: Uint8Array,
    dense: Float32Array,
    pooled: Float32Array | null,
    lengths: Uint32Array | null,
    output: Float32Array | null,
    times?: Float64Array | null,
    timesAt?: number,
    groups?: Uint32Array | null,
  ): void;
  /** [async] The same on addon threads; the workspace and the buffers must not be touched, transferred or detached until it settles. */
  run(
    workspace: NativeWorkspace,
    stage: number,
    items: number,
    perItem: Uint8Array,
    dense: Float32Array,
    pooled: Float32Array | null,
    lengths: Uint32Array | null,
    output: Float32Array | null,
    times?: Float64Array | null,
    timesAt?: number,
    groups?: Uint32Array | null,
  ): Promise<void>;
}

export type NativeWorkspace = object;

export const PRECISIONS = ['fp32', 'bf16', 'int8'] as const;

/**
 * Operands of the fully connected layers and of cross layers' matrices; sums and all else are float32. bf16: weights and inputs are rounded to
 * bfloat16 (needs AVX-512 BF16). int8: weights in 8 bits with a scale per output, inputs in 8 bits with a scale and a zero point per row, exact
 * sums (needs AVX-512 VNNI). The scalar kernels have all three.
 * @useDeclaredType
 */
export type Precision = (typeof PRECISIONS)[number];

/** How far packed rows are from those that they were made of, over all finite values. */
export interface NativePackError {
  readonly maxError: number;
  readonly sumSquaredError: number;
  /** Squares of the values themselves. */
  readonly sumSquares: number;
}

/** Times in ms. */
export interface NativeSocketOptions {
  /** A ROUTER, which keeps the event loop alive until it is closed; else a DEALER, which does not. */
  readonly router: boolean;
  /** Of a ROUTER: connections that may wait to be accepted, and its events are those that were; 0: as many as libzmq likes, and no events. */
  readonly backlog: number;
  readonly ipv6: boolean;
  /** Messages that may wait in each direction. */
  readonly highWaterMark: number;
  /** A peer that sends a longer one is disconnected. */
  readonly maxMessageBytes: number;
  readonly handshakeMs: number;
  readonly tcpMaxRetransmitMs: number;
  readonly connectMs: number;
  /** CURVE, as Z85; null: nothing is encrypted. A ROUTER lets in who is allowed, and nobody at first. */
  readonly keys: NativeCurveKeys | null;
  readonly limits: NativePeerLimits;
}

export interface NativeCurveKeys {
  readonly publicKey: string;
  readonly secretKey: string;
  /** Of a DEALER: that of its server; empty of a ROUTER. */
  readonly serverKey: string;
}

/** What peers may take; who takes more is cut off. Times in ms; native/wire/socket_watch.h. */
export interface NativePeerLimits {
  readonly connections: number;
  /** Of these, those that have not sent a message yet. */
  readonly silentConnections: number;
  /** After which one is cut off that has not sent a message; 0: never. */
  readonly firstMessageMs: number;
  /** Bytes that came and are no whole message that was received: of a connection before its first message, of one, of all of this process. */
  readonly silentBytes: number;
  readonly unreadBytes: number;
  readonly unreadProcessBytes: number;
  /** Bytes that were sent and not taken yet, of one and of all of this process; a longer message is refused. */
  readonly unsentBytes: number;
  readonly unsentProcessBytes: number;
  /** After which one is cut off that takes nothing while messages are refused for it. */
  readonly stalledMs: number;
}

/** Since the socket was opened; reason and gone: since the last call. */
export interface NativePeerNews {
  readonly connections: number;
  readonly strangers: number;
  readonly cut: number;
  /** Why the latest was refused or cut off; empty when nobody was. */
  readonly reason: string;
  /** Peers whose connections have gone. */
  readonly gone: readonly string[];
}

/**
 * A ZeroMQ socket on the event loop. Messages are one frame, of a ROUTER behind the peer's name. All functions are [sync], none waits, and those
 * that move messages throw when it is closed.
 */
export interface NativeSocket {
  /** Once; again after disconnect. Messages queue before the peer is there, and after it has gone. */
  connect(endpoint: string): void;
  /** Drops what was not sent, and what was not received. */
  disconnect(endpoint: string): void;
  /** Returns the endpoint with the port that was taken. */
  bind(endpoint: string): string;
  /** Accepts no further connection; those that there are stay. The file of a Unix socket is removed. */
  unbind(endpoint: string): void;
  /**
   * A ROUTER answers small requests to pool (src/rpc/codec.ts) where they are received, without a message to JavaScript; null: no more.
   * stamp: of the version that the engine holds (src/rpc/version.ts), that of what it answers. nsPerIndex says what a request is worth. At most budgetNs are pooled in a row, and at most busyBudgetNs while other messages wait. What
   * cannot be pooled, for whatever reason, is received like any other message.
   */
  serve(engine: NativeSparseEngine | null, stamp?: Uint8Array, nsPerIndex?: number, budgetNs?: number, busyBudgetNs?: number): void;
  /**
   * For the service of a ROUTER, which has to serve: how far the system's monotonic clock (process.hrtime), ms, is ahead of the peer's, so that a
   * request's wait in the socket counts against its deadline.
   */
  setClockOffset(peer: string, offsetMs: number): void;
  /** What the service counted, under the names of a shard's stats; nothing of a socket that never served. */
  served(): Record<string, number>;
  /** Bytes of the next message, which is held, until the next call, to be taken; -1 when there is none, -2 when one was answered. */
  receive(): number;
  /** Copies the held message into bytes of its length, and holds it no longer. */
  take(into: Uint8Array): void;
  /**
   * The held message's own memory, not copied, and held no longer. It counts as memory of V8 until it is given back to Socket.giveBack, after
   * which it has no bytes, or is garbage.
   */
  lend(): ArrayBuffer;
  /** Sender of the latest message, one character per byte; empty of a DEALER. */
  peer(): string;
  /** Whether a message waits. To be asked after sending, which may take notice of it in onReadable's place. */
  readable(): boolean;
  /**
   * One message of at most 16 parts, which are copied. False when it is not connected, a ROUTER's peer is away, or as many messages as may wait
   * do: nothing of it is sent then.
   */
  send(peer: string, ...parts: readonly Uint8Array[]): boolean;
  /** Bytes that a message to the peer may have, as send would take it; 0 when it is not there. */
  room(peer: string): number;
  /** To be called again and again. */
  watchPeers(): NativePeerNews;
  /** For connections from now on: of a ROUTER those of an endpoint that is bound afterwards. Only of a socket with keys. */
  setKeys(keys: NativeCurveKeys): void;
  /** Public keys, as Z85, of who is let in from now on; connections of others are cut off. Only of a ROUTER with keys. */
  allow(keys: readonly string[]): void;
  /** Of a DEALER: why its latest handshake failed, an event of libzmq's monitor; 0 when none did. */
  failure(): number;
  /** Keeps on sending what was sent for lingerMs at most; the last socket to be closed waits for that. Again: nothing happens. */
  close(lingerMs: number): void;
}

/**
 * Builds a key index; see native/tables/key_index.h. All but shape and close are [async], one after another: a step that is asked for while another
 * runs throws {status: busy}. Errors carry {status}: duplicate_key (with key, row and otherRow), wrong_count, unplaceable, spill (with errno),
 * out_of_memory.
 */
export interface NativeKeyIndexBuilder {
  /** Keys of the next rows, 8 little-endian bytes each; left alone until it settles. */
  add(keys: Uint8Array): Promise<void>;
  /** After the last key, until it gives true. */
  countRange(): Promise<boolean>;
  /** The next buckets, as many as there is room for: their bytes, 0 behind the last one. */
  place(out: Uint8Array): Promise<number>;
  /** [sync] Buckets and seed: right when all is counted. */
  shape(): { readonly buckets: number; readonly seed: number; readonly ranges: number };
  /** [sync] Gives its memory back, and its file. */
  close(): void;
}

/** The keys of an index in the order of their rows; steps and errors as those of NativeKeyIndexBuilder. */
export interface NativeKeysByRow {
  /** The next buckets of the index. */
  add(buckets: Uint8Array): Promise<void>;
  /** After the last bucket, the keys of the next rows, as many as there is room for: their bytes, 0 behind the last one. */
  next(out: Uint8Array): Promise<number>;
  /** [sync] */
  close(): void;
}

/** What is wrong with the bytes of a key index, and the first bucket where it is. */
export interface NativeKeyIndexReport {
  readonly fault: 'none' | 'slots' | 'row' | 'row_twice' | 'place' | 'count';
  readonly bucket: number;
}

export interface NativeAddon {
  readonly vocabulary: NativeVocabulary;
  /** Name of the kernels in use: scalar, avx2, avx512, neon. */
  readonly isa: string;
  /** [sync] Names of the kernels that this build and CPU have, best last. */
  availableKernels(): string[];
  /**
   * [sync] Hashes of what the kernels in use compute of fixed inputs, 16 hexadecimal digits each: kernels whose hashes are equal give the same
   * bits. pooling: all that a sparse shard computes; dense: fully connected layers in float32 and dot interactions. Takes about a millisecond.
   */
  fingerprints(): { readonly pooling: string; readonly dense: string };
  /** [sync] CPU time of the calling thread, microseconds. */
  threadCpuUs(): number;
  /** [sync] Those that the kernels in use and this CPU have. */
  precisions(): Precision[];
  /**
   * [async] Writes rows [rows, dim] of a plain format as rows of another one into out, which has to be as long as they are; on an addon thread,
   * and buffers must be left alone until it settles. See native/tables/quantize.h for the arithmetic. Errors carry {status, row}: not_finite (NaN
   * or infinity cannot be quantized), overflow (too large for the format), out_of_memory.
   */
  packRows(rows: Uint8Array, from: PlainFormat, dim: number, to: RowFormat, out: Uint8Array): Promise<NativePackError>;
  /** numKeys: 1 to 2^32. directory: where keys are spilled that do not fit in memory. rangeKeys: how many do, for tests. */
  KeyIndexBuilder: new (
    numKeys: number,
    directory: string,
    rangeKeys?: number,
  ) => NativeKeyIndexBuilder;
  KeysByRow: new (numKeys: number, seed: number, directory: string, rangeKeys?: number) => NativeKeysByRow;
  /**
   * [sync] The keys that some buckets of an index hold, 8 little-endian bytes each, in any order; the bytes that were written to out, which has to
   * have room for 7 keys of each bucket. Buckets that no index has give none.
   */
  keysOfBuckets(buckets: Uint8Array, firstBucket: number, numKeys: number, seed: number, out: Uint8Array): number;
  /**
   * [async] Reads a whole index of a file and says what is wrong: not every row has one key that is found. Errors carry {status}: unreadable (and
   * errno when a system call failed), out_of_memory.
   */
  checkKeyIndex(path: string, byteOffset: number, buckets: number, numKeys: number, seed: number): Promise<NativeKeyIndexReport>;
  /** [sync] Whether a libzmq is loaded that Socket can use: zeromq.js's, once that is imported, on Linux. */
  socketsAvailable(): boolean;
  /** [sync] CRC-32C (RFC 3720, appendix B.4) of an answer: of the id as a little-endian float64, the stamp and the vectors. */
  answerChecksum(id: number, stamp: Uint8Array, vectors: Uint8Array): number;
  /**
   * [sync] Sends text as one datagram to a Unix socket, by its path or, after an @, its abstract name; never waits. Returns 0 or the system's error
   * number: EAGAIN while the receiver's queue is full.
   */
  sendDatagram(address: string, text: string): number;
  /** onReadable: messages wait; receive until there is none. onEvent: of a DEALER, whether its peer came, or went or was not there, which may be told again later; of a ROUTER, that somebody came. */
  Socket: {
    new (options: NativeSocketOptions, onReadable: () => void, onEvent: (up: boolean) => void): NativeSocket;
    /** [sync] Of lend. */
    giveBack(memory: ArrayBuffer): void;
  };
  /**
   * Maps the files, or takes address space for the copies; no row is read before fill. Without a residency it is populate. Errors about files
   * carry {status: unreadable} and {errno} when a system call failed, those about rules {status: bad_rule}: a vector that the rows' format cannot hold.
   */
  SparseEngine: new (
    tables: readonly NativeTable[],
    residency?: Residency,
    prefetch?: Prefetch,
  ) => NativeSparseEngine;
  /** inputs: dim per input, dense features first; numDense of them are dense. output: number of the value that is returned. */
  DenseNet: new (
    inputDims: readonly number[],
    numDense: number,
    layers: readonly NativeLayer[],
    output: number,
    precision?: Precision,
    /** One per input: how many positions a sequence has at most; 0: a vector. Without it all are vectors. */
    inputPositions?: readonly number[],
  ) => NativeDenseNet;
}

/** The addon, loaded once per environment. */
export const native: NativeAddon = checkVocabulary(loadAddon<NativeAddon>('terabag', process.env['TERABAG_ADDON']));
