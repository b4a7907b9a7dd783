import { Packr } from 'msgpackr';
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
const [FIXSTRING, BIN8, BIN32, FLOAT64, UINT32] = [0xa0, 0xc4, 0xc6, 0xcb, 0xce];

/** Packs the first fields of a message, every number in eight bytes: each field has its place, whatever it says. */
class Head {
  #at = 2;
  readonly bytes: Buffer;
  constructor(fields: number, kind: string, byteLength: number) {
    this.bytes = Buffer.allocUnsafe(byteLength + 3 + kind.length);
    this.bytes[0] = FIXARRAY + fields;
    this.bytes[1] = WIRE_VERSION;
    this.bytes[this.#at++] = FIXSTRING + kind.length;
    this.#at += this.bytes.write(kind, this.#at, 'latin1');
  }
  stamp(value: Uint8Array): this {
    this.bytes[this.#at] = BIN8;
    this.bytes[this.#at + 1] = STAMP_BYTES;
    this.bytes.set(value, this.#at + 2);
    this.#at += PACKED_STAMP_BYTES;
    return this;
  }
  double(value: number): this {
    this.bytes[this.#at] = FLOAT64;
    this.bytes.writeDoubleBE(value, this.#at + 1);
    this.#at += DOUBLE_BYTES;
    return this;
  }
  small(value: number): this {
    this.bytes[this.#at++] = value;
    return this;
  }
}
const DOUBLE_BYTES = 9;
const PACKED_STAMP_BYTES = 2 + STAMP_BYTES;

const packedChecksum = (checksum: number): Buffer => {
  const bytes = Buffer.allocUnsafe(5);
  bytes[0] = UINT32;
  bytes.writeUInt32BE(checksum, 1);
  return bytes;
};

/** What stands in front of a binary's bytes. */
function binaryHead(byteLength: number): Buffer {
  const head = Buffer.allocUnsafe(5);
  head[0] = BIN32;
  head.writeUInt32BE(byteLength, 1);
  return head;
}

const NIL = Buffer.of(0xc0);

const POOL_HEAD_BYTES = PACKED_STAMP_BYTES + 3 * DOUBLE_BYTES + 1;
const POOLED_HEAD_BYTES = PACKED_STAMP_BYTES + 2 * DOUBLE_BYTES;
const packedVersion = ({ modelHash, planHash, epoch }: ServedVersion): readonly [string, string, number] => [modelHash, planHash, epoch];

/** A message in parts, in the order in which they are sent: binaries of the message are parts as they are. */
export function clientMessageParts(message: ClientMessage): readonly Uint8Array[] {
  switch (message.kind) {
    case 'hello':
      return [packr.pack([WIRE_VERSION, 'hello', message.sentAtMs, ...packedVersion(message.version), message.kernels])];
    case 'pool': {
      const { id, stamp, sentAtMs, remainingMs } = message;
      const { segments, indexBytes, indices, offsets, weights } = message.batch;
      return [
        new Head(12, 'pool', POOL_HEAD_BYTES).double(id).stamp(stamp).double(sentAtMs).double(remainingMs).small(indexBytes).bytes,
        ...[segments, indices, offsets].flatMap((bytes) => [binaryHead(bytes.byteLength), bytes]),
        ...(weights === null ? [NIL] : [binaryHead(weights.byteLength), weights]),
        packr.pack(message.timed),
      ];
    }
    case 'ping':
      return [packr.pack([WIRE_VERSION, 'ping', message.id, message.sentAtMs])];
    case 'cancel':
    case 'stats':
      return [packr.pack([WIRE_VERSION, message.kind, message.id])];
  }
}

/** Where these fields of a request to pool stand. */
const POOL_ID_AT = 3 + 'pool'.length + 1;
const POOL_SENT_AT = POOL_ID_AT + DOUBLE_BYTES + PACKED_STAMP_BYTES;
const POOL_REMAINING_AT = POOL_SENT_AT + DOUBLE_BYTES;

/** Makes an encoded request to pool another attempt at the same. */
export function renewPool(
  message: Uint8Array,
  { id, sentAtMs, remainingMs }: Pick<Extract<ClientMessage, { kind: 'pool' }>, 'id' | 'sentAtMs' | 'remainingMs'>,
): void {
  const bytes = binary(message);
  bytes.writeDoubleBE(id, POOL_ID_AT);
  bytes.writeDoubleBE(sentAtMs, POOL_SENT_AT);
  bytes.writeDoubleBE(remainingMs, POOL_REMAINING_AT);
}

export const encodeClientMessage = (message: ClientMessage): Buffer => Buffer.concat(clientMessageParts(message));

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

/** As clientMessageParts. */
export function shardMessageParts(message: ShardMessage): readonly Uint8Array[] {
  switch (message.kind) {
    case 'welcome':
      return [packr.pack([WIRE_VERSION, 'welcome', message.shard, ...packedVersion(message.version), message.kernels, message.state])];
    case 'pooled':
      if (message.stages !== null) stages.set(message.stages);
      return [
        new Head(8, 'pooled', POOLED_HEAD_BYTES).double(message.id).stamp(message.stamp).double(message.serviceUs).bytes,
        binaryHead(message.pooled.byteLength),
        message.pooled,
        packedChecksum(message.checksum),
        packr.pack(message.stages === null ? null : stageBytes),
      ];
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
