import { Packr } from 'msgpackr';
import type { SparseBatch } from '../engine/sparse-batch.js';
import { TerabagError } from '../errors.js';
import { type ClientMessage, SHARD_STAGES, type ShardMessage, STAGE_SLOTS, WIRE_VERSION } from './messages.js';
import { type ShardStats, unsoundStat } from './shard-stats.js';
import { type ServedVersion, STAMP_BYTES } from './version.js';

/** No message has more fields; a longer array is refused before it is decoded, so that a lying length reserves nothing. */
const MAX_FIELDS = 12;
const FIXARRAY = 0x90;
const packr = new Packr({ useRecords: false, moreTypes: false });

/** Binaries have to be Buffers: other typed arrays would be encoded element by element. */
const binary = (bytes: ArrayBufferView): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** Stages on their way to or from a message: memory of its own for each would cost more than all else that is done for them. */
const stages = new Float64Array(SHARD_STAGES.length);
const stageBytes = binary(stages);

function malformed(field: string, expected: string): TerabagError {
  return new TerabagError('bad_message', `malformed message: ${field} has to be ${expected}`, { field });
}

class Fields {
  #at = 2;
  constructor(private readonly values: readonly unknown[]) {}

  text(field: string): string {
    const value = this.values[this.#at++];
    if (typeof value !== 'string') throw malformed(field, 'a string');
    return value;
  }
  oneOf<T extends string>(field: string, words: readonly T[]): T {
    const value = this.text(field);
    const word = words.find((candidate) => candidate === value);
    if (word === undefined) throw malformed(field, `one of ${words.join(', ')}`);
    return word;
  }
  number(field: string): number {
    const value = this.values[this.#at++];
    if (typeof value !== 'number' || !Number.isFinite(value) || value < 0) throw malformed(field, 'a number, 0 or more');
    return value;
  }
  /** The id, wherever reading stands; null when there is none. */
  get answers(): number | null {
    const [, , id] = this.values;
    return typeof id === 'number' && Number.isSafeInteger(id) && id >= 0 ? id : null;
  }
  id(): number {
    const value = this.number('id');
    if (!Number.isSafeInteger(value)) throw malformed('id', 'a safe integer');
    return value;
  }
  bytes(field: string): Uint8Array {
    const value = this.values[this.#at++];
    if (!(value instanceof Uint8Array)) throw malformed(field, 'a binary');
    return value;
  }
  stamp(): Uint8Array {
    const value = this.bytes('stamp');
    if (value.byteLength !== STAMP_BYTES) throw malformed('stamp', `${STAMP_BYTES} bytes`);
    return value;
  }
  version(): ServedVersion {
    const [modelHash, planHash, epoch] = [this.text('modelHash'), this.text('planHash'), this.number('epoch')];
    if (!Number.isSafeInteger(epoch)) throw malformed('epoch', 'a safe integer');
    return { modelHash, planHash, epoch };
  }
  checksum(): number {
    const value = this.number('checksum');
    if (!Number.isInteger(value) || value > 0xffff_ffff) throw malformed('checksum', 'an integer of 32 bits');
    return value;
  }
  bytesOrNull(field: string): Uint8Array | null {
    if (this.values[this.#at] !== null) return this.bytes(field);
    this.#at++;
    return null;
  }
  flag(field: string): boolean {
    const value = this.values[this.#at++];
    if (typeof value !== 'boolean') throw malformed(field, 'true or false');
    return value;
  }
  stagesOrNull(field: string): number[] | null {
    const bytes = this.bytesOrNull(field);
    if (bytes === null) return null;
    const expected = `${SHARD_STAGES.length} doubles, 0 or more`;
    if (bytes.byteLength !== stageBytes.byteLength) throw malformed(field, expected);
    stageBytes.set(bytes);
    const values: number[] = [];
    for (let s = 0; s < stages.length; s++) {
      const us = stages[s] as number;
      if (!Number.isFinite(us) || us < 0) throw malformed(field, expected);
      values.push(us);
    }
    return values;
  }
  #map(field: string): Record<string, unknown> {
    const value = this.values[this.#at++];
    if (typeof value !== 'object' || value === null || Array.isArray(value) || value instanceof Uint8Array) throw malformed(field, 'a map');
    return value as Record<string, unknown>;
  }
  details(field: string): Record<string, string | number | boolean> {
    const value = this.#map(field);
    for (const entry of Object.values(value)) {
      if (!['string', 'number', 'boolean'].includes(typeof entry)) throw malformed(field, 'a map of strings, numbers and booleans');
    }
    return value as Record<string, string | number | boolean>;
  }
  stats(): ShardStats {
    const value = this.#map('stats');
    const unsound = unsoundStat(value);
    if (unsound !== null) throw malformed(`stats.${unsound.field}`, unsound.expected);
    return value as ShardStats;
  }
  end(): void {
    if (this.#at !== this.values.length) throw malformed('fields', `${this.#at}, not ${this.values.length}`);
  }
}

/** Versions are told apart in one byte of msgpack, so that the version of an error can be that of its receiver. */
const MAX_VERSION = 127;
const ERROR_FIELDS = 6;

const versionMismatch = (theirs: number, id: number): TerabagError =>
  new TerabagError('version_mismatch', `a peer speaks another version of the wire protocol: ${theirs}, this side speaks ${WIRE_VERSION}`, {
    theirs,
    ours: WIRE_VERSION,
    id,
  });

/** What a peer of another version is told, in its version. mismatch: as decodeClientMessage threw it. */
export function encodeVersionMismatch({ details, message }: TerabagError): Buffer {
  const told = { theirs: WIRE_VERSION, ours: details['theirs'] };
  return packr.pack([details['theirs'], 'error', details['id'], 'version_mismatch', message, told]);
}

function open(bytes: Uint8Array): { kind: unknown; fields: Fields } {
  const first = bytes[0];
  if (first === undefined || first < FIXARRAY + 2 || first > FIXARRAY + MAX_FIELDS) throw malformed('message', 'a short msgpack array');
  let values: unknown;
  try {
    values = packr.unpack(binary(bytes));
  } catch (error) {
    throw new TerabagError('bad_message', `malformed message: ${error instanceof Error ? error.message : String(error)}`);
  }
  if (!Array.isArray(values)) throw malformed('message', 'an array');
  const [version, kind, id] = values as unknown[];
  if (version !== WIRE_VERSION) {
    if (typeof version !== 'number' || !Number.isInteger(version) || version < 0 || version > MAX_VERSION)
      throw malformed('version', `an integer from 0 to ${MAX_VERSION}`);
    // What a server says of it is in the layout that all versions have.
    if (kind === 'error' && values.length === ERROR_FIELDS) return { kind, fields: new Fields(values) };
    throw versionMismatch(version, typeof id === 'number' && Number.isSafeInteger(id) && id >= 0 ? id : 0);
  }
  return { kind: values[1], fields: new Fields(values) };
}

/** Type bytes of msgpack (github.com/msgpack/msgpack, spec.md). */
const [FIXSTRING, NIL, FALSE, TRUE, BIN8, BIN32, FLOAT64, UINT32] = [0xa0, 0xc0, 0xc2, 0xc3, 0xc4, 0xc6, 0xcb, 0xce];

const DOUBLE_BYTES = 9;
const PACKED_STAMP_BYTES = 2 + STAMP_BYTES;
const CHECKSUM_BYTES = 5;
const BINARY_HEAD_BYTES = 5;
const packedBytes = (bytes: Uint8Array | null): number => (bytes === null ? 1 : BINARY_HEAD_BYTES + bytes.byteLength);

/** What a message of this kind and so many fields starts with. */
const startOf = (fields: number, kind: string): Uint8Array =>
  Buffer.concat([Buffer.of(FIXARRAY + fields, WIRE_VERSION, FIXSTRING + kind.length), Buffer.from(kind)]);

const double = new Float64Array(1);
const doubleBytes = new Uint8Array(double.buffer);

/** Packs fields one after another into memory of the right length, numbers in eight bytes each: every field has its place, whatever it says. */
class Writer {
  constructor(
    private readonly bytes: Uint8Array,
    private at = 0,
  ) {}

  raw(bytes: Uint8Array): this {
    this.bytes.set(bytes, this.at);
    this.at += bytes.byteLength;
    return this;
  }
  byte(value: number): this {
    this.bytes[this.at++] = value;
    return this;
  }
  double(value: number): this {
    const { bytes, at } = this;
    double[0] = value;
    bytes[at] = FLOAT64;
    for (let byte = 0; byte < 8; byte++) bytes[at + 1 + byte] = doubleBytes[7 - byte] as number;
    this.at = at + DOUBLE_BYTES;
    return this;
  }
  uint32(type: number, value: number): this {
    const { bytes, at } = this;
    bytes[at] = type;
    bytes[at + 1] = value >>> 24;
    bytes[at + 2] = value >>> 16;
    bytes[at + 3] = value >>> 8;
    bytes[at + 4] = value;
    this.at = at + 5;
    return this;
  }
  stamp(value: Uint8Array): this {
    return this.byte(BIN8).byte(STAMP_BYTES).raw(value);
  }
  binary(value: Uint8Array | null): this {
    return value === null ? this.byte(NIL) : this.uint32(BIN32, value.byteLength).raw(value);
  }
}

type PoolMessage = Extract<ClientMessage, { kind: 'pool' }>;
const POOL_START = startOf(12, 'pool');
const POOL_HEAD_BYTES = POOL_START.byteLength + PACKED_STAMP_BYTES + 3 * DOUBLE_BYTES + 1;
/** Where these fields of a request to pool stand. */
const POOL_ID_AT = POOL_START.byteLength;
const POOL_SENT_AT = POOL_ID_AT + DOUBLE_BYTES + PACKED_STAMP_BYTES;

/** Bytes of a request to pool. */
export function poolMessageBytes({ segments, indices, offsets, weights }: SparseBatch): number {
  return POOL_HEAD_BYTES + packedBytes(segments) + packedBytes(indices) + packedBytes(offsets) + packedBytes(weights) + 1;
}

/** Encodes a request to pool into memory of poolMessageBytes. */
export function writePoolMessage({ id, stamp, sentAtMs, remainingMs, batch, timed }: PoolMessage, into: Uint8Array): void {
  const { segments, indexBytes, indices, offsets, weights } = batch;
  new Writer(into)
    .raw(POOL_START)
    .double(id)
    .stamp(stamp)
    .double(sentAtMs)
    .double(remainingMs)
    .byte(indexBytes)
    .binary(segments)
    .binary(indices)
    .binary(offsets)
    .binary(weights)
    .byte(timed ? TRUE : FALSE);
}

/** Makes an encoded request to pool another attempt at the same. */
export function renewPool(message: Uint8Array, { id, sentAtMs, remainingMs }: Pick<PoolMessage, 'id' | 'sentAtMs' | 'remainingMs'>): void {
  new Writer(message, POOL_ID_AT).double(id);
  new Writer(message, POOL_SENT_AT).double(sentAtMs).double(remainingMs);
}

const packedVersion = ({ modelHash, planHash, epoch }: ServedVersion): readonly [string, string, number] => [modelHash, planHash, epoch];

export function encodeClientMessage(message: ClientMessage): Buffer {
  switch (message.kind) {
    case 'hello':
      return packr.pack([WIRE_VERSION, 'hello', message.sentAtMs, ...packedVersion(message.version), message.kernels]);
    case 'pool': {
      const bytes = Buffer.alloc(poolMessageBytes(message.batch));
      writePoolMessage(message, bytes);
      return bytes;
    }
    case 'ping':
      return packr.pack([WIRE_VERSION, 'ping', message.id, message.sentAtMs]);
    case 'cancel':
    case 'stats':
      return packr.pack([WIRE_VERSION, message.kind, message.id]);
  }
}

/**
 * Binaries of the result alias the given bytes. Throws bad_message, or version_mismatch with the versions of both and the message's id (0 when it
 * has none).
 */
export function decodeClientMessage(bytes: Uint8Array): ClientMessage {
  const { kind, fields } = open(bytes);
  const message = ((): ClientMessage => {
    switch (kind) {
      case 'hello':
        return { kind, sentAtMs: fields.number('sentAtMs'), version: fields.version(), kernels: fields.text('kernels') };
      case 'pool': {
        const id = fields.id();
        const stamp = fields.stamp();
        const sentAtMs = fields.number('sentAtMs');
        const remainingMs = fields.number('remainingMs');
        const indexBytes = fields.number('indexBytes');
        if (indexBytes !== 4 && indexBytes !== 8) throw malformed('indexBytes', '4 or 8');
        return {
          kind,
          id,
          stamp,
          sentAtMs,
          remainingMs,
          batch: {
            indexBytes,
            segments: fields.bytes('segments'),
            indices: fields.bytes('indices'),
            offsets: fields.bytes('offsets'),
            weights: fields.bytesOrNull('weights'),
          },
          timed: fields.flag('timed'),
        };
      }
      case 'ping':
        return { kind, id: fields.id(), sentAtMs: fields.number('sentAtMs') };
      case 'cancel':
      case 'stats':
        return { kind, id: fields.id() };
      default:
        throw malformed('kind', 'hello, pool, cancel, ping or stats');
    }
  })();
  fields.end();
  return message;
}

const POOLED_START = startOf(8, 'pooled');
const POOLED_HEAD_BYTES = POOLED_START.byteLength + PACKED_STAMP_BYTES + 2 * DOUBLE_BYTES + BINARY_HEAD_BYTES;

/** What stands before the vectors of an answer, and behind them. */
function aroundVectors({
  id,
  stamp,
  serviceUs,
  pooled,
  checksum,
  stages: given,
}: Extract<ShardMessage, { kind: 'pooled' }>): [Buffer, Buffer] {
  const head = Buffer.allocUnsafe(POOLED_HEAD_BYTES);
  new Writer(head).raw(POOLED_START).double(id).stamp(stamp).double(serviceUs).uint32(BIN32, pooled.byteLength);
  const tail = Buffer.allocUnsafe(CHECKSUM_BYTES + (given === null ? 1 : 2 + stageBytes.byteLength));
  const behind = new Writer(tail).uint32(UINT32, checksum);
  if (given === null) behind.byte(NIL);
  else {
    stages.set(given);
    behind.byte(BIN8).byte(stageBytes.byteLength).raw(stageBytes);
  }
  return [head, tail];
}

/** A message in parts, in the order in which they are sent: the vectors of an answer are a part as they are. */
export function shardMessageParts(message: ShardMessage): readonly Uint8Array[] {
  switch (message.kind) {
    case 'welcome':
      return [packr.pack([WIRE_VERSION, 'welcome', message.shard, ...packedVersion(message.version), message.kernels, message.state])];
    case 'pooled': {
      const [head, tail] = aroundVectors(message);
      return [head, message.pooled, tail];
    }
    case 'error':
      return [packr.pack([WIRE_VERSION, 'error', message.id, message.code, message.message, message.details])];
    case 'pong':
      return [packr.pack([WIRE_VERSION, 'pong', message.id, binary(message.stamp), message.state, message.inFlight])];
    case 'stats':
      return [packr.pack([WIRE_VERSION, 'stats', message.id, binary(message.stamp), message.stats])];
  }
}

/** Says in the parts of a pooled message with stages what encoding it took: they are its last bytes. */
export function setSerializeUs(parts: readonly Uint8Array[], us: number): void {
  const last = binary(parts.at(-1) as Uint8Array);
  last.writeDoubleLE(us, last.byteLength - stageBytes.byteLength + STAGE_SLOTS.serializeUs * 8);
}

const STATES = ['ready', 'draining'] as const;

/**
 * Binaries of the result alias the given bytes. Throws as decodeClientMessage; details.id of what would answer a request says which, as far as it
 * can be read.
 */
export function decodeShardMessage(bytes: Uint8Array): ShardMessage {
  const { kind, fields } = open(bytes);
  try {
    return shardMessage(kind, fields);
  } catch (error) {
    const { code, message, details } = TerabagError.from(error);
    const id = kind === 'pooled' || kind === 'error' ? fields.answers : null;
    throw id === null ? error : new TerabagError(code, message, { ...details, id });
  }
}

function shardMessage(kind: unknown, fields: Fields): ShardMessage {
  const message = ((): ShardMessage => {
    switch (kind) {
      case 'welcome':
        return {
          kind,
          shard: fields.text('shard'),
          version: fields.version(),
          kernels: fields.text('kernels'),
          state: fields.oneOf('state', STATES),
        };
      case 'pooled':
        return {
          kind,
          id: fields.id(),
          stamp: fields.stamp(),
          serviceUs: fields.number('serviceUs'),
          pooled: fields.bytes('pooled'),
          checksum: fields.checksum(),
          stages: fields.stagesOrNull('stages'),
        };
      case 'error':
        return { kind, id: fields.id(), code: fields.text('code'), message: fields.text('message'), details: fields.details('details') };
      case 'pong':
        return { kind, id: fields.id(), stamp: fields.stamp(), state: fields.oneOf('state', STATES), inFlight: fields.number('inFlight') };
      case 'stats':
        return { kind, id: fields.id(), stamp: fields.stamp(), stats: fields.stats() };
      default:
        throw malformed('kind', 'welcome, pooled, error, pong or stats');
    }
  })();
  fields.end();
  return message;
}
