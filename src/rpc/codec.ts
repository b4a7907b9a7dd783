import { Packr } from 'msgpackr';
import { TerabagError } from '../errors.js';
import { type ClientMessage, SHARD_STAGES, type ShardMessage, STAGE_SLOTS, WIRE_VERSION } from './messages.js';
import { type ShardStats, unsoundStat } from './shard-stats.js';

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

/** The values as the first of an array of so many fields, of which others follow. */
function packFirst(fields: number, values: readonly unknown[]): Buffer {
  const packed = packr.pack(values);
  packed[0] = FIXARRAY + fields;
  return packed;
}

const BIN32 = 0xc6;
/** What stands in front of a binary's bytes. */
function binaryHead(byteLength: number): Buffer {
  const head = Buffer.allocUnsafe(5);
  head[0] = BIN32;
  head.writeUInt32BE(byteLength, 1);
  return head;
}

const NIL = Buffer.of(0xc0);

/** A message in parts, in the order in which they are sent: binaries of the message are parts as they are. */
export function clientMessageParts(message: ClientMessage): readonly Uint8Array[] {
  switch (message.kind) {
    case 'hello':
      return [packr.pack([WIRE_VERSION, 'hello', message.sentAtMs, message.modelHash, message.kernels])];
    case 'pool': {
      const { segments, indexBytes, indices, offsets, weights } = message.batch;
      return [
        packFirst(11, [WIRE_VERSION, 'pool', message.id, message.sentAtMs, message.remainingMs, indexBytes]),
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
        return { kind, sentAtMs: fields.number('sentAtMs'), modelHash: fields.text('modelHash'), kernels: fields.text('kernels') };
      case 'pool': {
        const id = fields.id();
        const sentAtMs = fields.number('sentAtMs');
        const remainingMs = fields.number('remainingMs');
        const indexBytes = fields.number('indexBytes');
        if (indexBytes !== 4 && indexBytes !== 8) throw malformed('indexBytes', '4 or 8');
        return {
          kind,
          id,
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
      return [packr.pack([WIRE_VERSION, 'welcome', message.shard, message.modelHash, message.kernels, message.state])];
    case 'pooled':
      if (message.stages !== null) stages.set(message.stages);
      return [
        packFirst(6, [WIRE_VERSION, 'pooled', message.id, message.serviceUs]),
        binaryHead(message.pooled.byteLength),
        message.pooled,
        packr.pack(message.stages === null ? null : stageBytes),
      ];
    case 'error':
      return [packr.pack([WIRE_VERSION, 'error', message.id, message.code, message.message, message.details])];
    case 'pong':
      return [packr.pack([WIRE_VERSION, 'pong', message.id, message.state])];
    case 'stats':
      return [packr.pack([WIRE_VERSION, 'stats', message.id, message.stats])];
  }
}

/** Says in the parts of a pooled message with stages what encoding it took: they are its last bytes. */
export function setSerializeUs(parts: readonly Uint8Array[], us: number): void {
  const last = binary(parts.at(-1) as Uint8Array);
  last.writeDoubleLE(us, last.byteLength - stageBytes.byteLength + STAGE_SLOTS.serializeUs * 8);
}

const STATES = ['ready', 'draining'] as const;

/** Binaries of the result alias the given bytes. */
export function decodeShardMessage(bytes: Uint8Array): ShardMessage {
  const { kind, fields } = open(bytes);
  const message = ((): ShardMessage => {
    switch (kind) {
      case 'welcome':
        return {
          kind,
          shard: fields.text('shard'),
          modelHash: fields.text('modelHash'),
          kernels: fields.text('kernels'),
          state: fields.oneOf('state', STATES),
        };
      case 'pooled':
        return {
          kind,
          id: fields.id(),
          serviceUs: fields.number('serviceUs'),
          pooled: fields.bytes('pooled'),
          stages: fields.stagesOrNull('stages'),
        };
      case 'error':
        return { kind, id: fields.id(), code: fields.text('code'), message: fields.text('message'), details: fields.details('details') };
      case 'pong':
        return { kind, id: fields.id(), state: fields.oneOf('state', STATES) };
      case 'stats':
        return { kind, id: fields.id(), stats: fields.stats() };
      default:
        throw malformed('kind', 'welcome, pooled, error, pong or stats');
    }
  })();
  fields.end();
  return message;
}
