import { fromBinary } from '@bufbuild/protobuf';
import { BinaryReader } from '@bufbuild/protobuf/wire';
import { TerabagError } from '../../errors.js';
import { datatypeOf, rawTensor } from '../tensors/raw-tensor.js';
import type { Tensor } from '../tensors/tensor.js';
import { InferParameterSchema } from './proto/open_inference_pb.js';
import { typedTensor } from './typed-tensor.js';
import { MalformedMessage } from './varints.js';

/** A ModelInferRequest, read. */
export interface InferRequest {
  readonly model: string;
  readonly version: string;
  readonly id: string;
  readonly tensors: readonly Tensor[];
  /** Names; none: all. */
  readonly outputs: readonly string[];
  readonly parameters: { readonly timeout: number | undefined; readonly items: number | undefined; readonly priority: number | undefined };
  /** Whether values came in raw_input_contents, as those of the answer go then. */
  readonly raw: boolean;
}

/** Beyond, a message of a few bytes for each would become a thousand times as large. */
const MOST_TENSORS = 65_536;
const MOST_DIMS = 16;
/** Of any datatype. */
const ALIGNMENT = 8;

const VARINT = 0;
const DELIMITED = 2;
const tag = (field: number, type = DELIMITED): number => (field << 3) | type;
const TAG_1 = tag(1);
const TAG_2 = tag(2);
const TAG_3 = tag(3);
const TAG_4 = tag(4);
const TAG_5 = tag(5);
const TAG_6 = tag(6);
const TAG_7 = tag(7);
const TAG_SHAPE_UNPACKED = tag(3, VARINT);

interface Input {
  name: string;
  datatype: string;
  readonly shape: number[];
  contents: Uint8Array | null;
}

interface Fields {
  model: string;
  version: string;
  id: string;
  readonly inputs: Input[];
  readonly outputs: string[];
  readonly raw: Uint8Array[];
  readonly parameters: Map<string, Uint8Array>;
}

/**
 * Reads a message where it lies: raw values are copied only where they are not aligned. By hand, since the generated code takes several times as long
 * for it; open_inference.proto says what the fields are. hold is told what values take beside the message. Throws invalid_argument that names the
 * tensor or the parameter, unsupported, and what hold throws.
 */
export function readInferRequest(message: Buffer, hold: (bytes: number) => void): InferRequest {
  const fields = fieldsOf(message);
  const { model, version, id, inputs, outputs, raw, parameters } = fields;
  const rawOf = rawContents(inputs, aligned(raw, hold));
  const tensors = inputs.map((input, at): Tensor => {
    const datatype = datatypeOf(input.name, input.datatype);
    const bytes = rawOf(at);
    if (bytes !== null) return rawTensor(input.name, datatype, input.shape, bytes);
    return malformedNamed(() => typedTensor(input.name, datatype, input.shape, input.contents ?? NO_BYTES, hold));
  });
  const [timeout, items, priority] = ['timeout', 'items', 'priority'].map((name) => countParameter(name, parameters.get(name)));
  return { model, version, id, tensors, outputs, parameters: { timeout, items, priority }, raw: raw.length > 0 };
}

const NO_BYTES = new Uint8Array();

const fieldsOf = (message: Buffer): Fields => malformedNamed(() => new RequestReader(message).request());

function malformedNamed<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (error instanceof TerabagError) throw error;
    // Whatever the runtime throws of bytes that it cannot read.
    const message = `the message is no ModelInferRequest: ${(error as Error).message}`;
    throw new TerabagError('invalid_argument', message, { field: 'message' }, { cause: error });
  }
}

/** In one piece of memory, those that are not: one for each would leave more to the garbage collector than all else of a request. */
function aligned(raw: readonly Uint8Array[], hold: (bytes: number) => void): readonly Uint8Array[] {
  const moved = (bytes: Uint8Array): number => (bytes.byteOffset % ALIGNMENT === 0 ? 0 : Math.ceil(bytes.length / ALIGNMENT) * ALIGNMENT);
  const size = raw.reduce((sum, bytes) => sum + moved(bytes), 0);
  if (size === 0) return raw;
  hold(size);
  const memory = Buffer.allocUnsafeSlow(size);
  let at = 0;
  return raw.map((bytes) => {
    const room = moved(bytes);
    if (room === 0) return bytes;
    memory.set(bytes, at);
    at += room;
    return memory.subarray(at - room, at - room + bytes.length);
  });
}

/**
 * Where the raw values of input number at are; null: it has typed ones. There is an entry for each input, or, as some clients send them, for each that
 * has no typed contents; or for each of these that has values at all.
 */
function rawContents(inputs: readonly Input[], raw: readonly Uint8Array[]): (at: number) => Uint8Array | null {
  if (raw.length === 0) return () => null;
  if (raw.length === inputs.length) {
    const both = inputs.find(({ contents }, at) => contents !== null && contents.length > 0 && raw[at]?.length !== 0);
    if (both === undefined) return (at) => ((inputs[at]?.contents?.length ?? 0) > 0 ? null : (raw[at] as Uint8Array));
    throw invalid(`input ${both.name} has both contents and raw_input_contents`, both.name);
  }
  const withRaw = inputs.filter(({ contents }) => contents === null);
  const withValues = withRaw.filter(({ shape }) => !shape.includes(0));
  const owners = [withRaw, withValues].find(({ length }) => length === raw.length);
  if (owners === undefined)
    throw invalid(`raw_input_contents has ${raw.length} entries, and ${withRaw.length} inputs have no contents`, 'raw_input_contents');
  const byInput = new Map(owners.map((input, at) => [input, raw[at] as Uint8Array]));
  return (at) => byInput.get(inputs[at] as Input) ?? null;
}

/** Also in words, as some clients write numbers. */
function countParameter(name: string, value: Uint8Array | undefined): number | undefined {
  if (value === undefined) return undefined;
  const { case: kind, value: given } = malformedNamed(() =>
    fromBinary(InferParameterSchema, value, { readUnknownFields: false }),
  ).parameterChoice;
  if (kind === undefined) return undefined;
  const count = kind === 'boolParam' || given === '' ? Number.NaN : Number(given);
  if (Number.isSafeInteger(count) && count >= 0) return count;
  throw invalid(`parameter ${name} has to be an integer of 0 or more: ${String(given).slice(0, 40)}`, name);
}

class RequestReader {
  readonly #reader: BinaryReader;

  constructor(private readonly message: Buffer) {
    this.#reader = new BinaryReader(message);
  }

  request(): Fields {
    const fields: Fields = { model: '', version: '', id: '', inputs: [], outputs: [], raw: [], parameters: new Map() };
    this.#eachField(this.message.length, (number) => {
      if (number === TAG_1) fields.model = this.#text();
      else if (number === TAG_2) fields.version = this.#text();
      else if (number === TAG_3) fields.id = this.#text();
      else if (number === TAG_4) this.#parameter(fields.parameters);
      else if (number === TAG_5) added('inputs', fields.inputs, this.#input());
      else if (number === TAG_6) added('outputs', fields.outputs, this.#output());
      else if (number === TAG_7) added('raw_input_contents', fields.raw, this.#bytes());
      else return false;
      return true;
    });
    return fields;
  }

  #input(): Input {
    const input: Input = { name: '', datatype: '', shape: [], contents: null };
    const parameters = new Map<string, Uint8Array>();
    this.#eachField(this.#end(), (number) => {
      if (number === TAG_1) input.name = this.#text();
      else if (number === TAG_2) input.datatype = this.#text();
      else if (number === TAG_3) this.#shape(input.shape);
      else if (number === TAG_SHAPE_UNPACKED) this.#dim(input.shape);
      else if (number === TAG_4) this.#parameter(parameters);
      else if (number === TAG_5) input.contents = input.contents === null ? this.#bytes() : Buffer.concat([input.contents, this.#bytes()]);
      else return false;
      return true;
    });
    if (parameters.has('shared_memory_region')) throw unsupported(`input ${input.name}: shared memory`, input.name);
    return input;
  }

  #output(): string {
    let name = '';
    const parameters = new Map<string, Uint8Array>();
    this.#eachField(this.#end(), (number) => {
      if (number === TAG_1) name = this.#text();
      else if (number === TAG_2) this.#parameter(parameters);
      else return false;
      return true;
    });
    if (parameters.has('classification')) throw unsupported(`output ${name}: classification`, name);
    if (parameters.has('shared_memory_region')) throw unsupported(`output ${name}: shared memory`, name);
    return name;
  }

  /** An entry of a map; its value stays unread. Others than KNOWN mean nothing here. */
  #parameter(parameters: Map<string, Uint8Array>): void {
    let name = '';
    let value: Uint8Array = NO_BYTES;
    this.#eachField(this.#end(), (number) => {
      if (number === TAG_1) name = this.#text();
      else if (number === TAG_2) value = this.#bytes();
      else return false;
      return true;
    });
    if (KNOWN.has(name)) parameters.set(name, value);
  }

  #shape(shape: number[]): void {
    const end = this.#end();
    while (this.#reader.pos < end) this.#dim(shape);
  }

  #dim(shape: number[]): void {
    if (shape.length === MOST_DIMS) throw new MalformedMessage(`a shape has more than ${MOST_DIMS} dims`);
    const { message } = this;
    const reader = this.#reader;
    // Of up to four bytes, as nearly all are: a bigint would take longer than all else of an input.
    for (let dim = 0, at = 0; at < 4; at++) {
      const byte = message[reader.pos + at] as number;
      dim |= (byte & 0x7f) << (7 * at);
      if (byte >= 0x80) continue;
      reader.pos += at + 1;
      shape.push(dim);
      return;
    }
    shape.push(Number(reader.int64()));
  }

  /** read says whether it has read a field, which is skipped otherwise. */
  #eachField(end: number, read: (tag: number) => boolean): void {
    const reader = this.#reader;
    while (reader.pos < end) {
      const start = reader.pos;
      const number = reader.uint32();
      if (read(number)) continue;
      reader.pos = start;
      const [field, type] = reader.tag();
      reader.skip(type, field);
    }
    if (reader.pos !== end) throw new MalformedMessage('a field goes beyond what holds it');
  }

  /** Where what is length-delimited ends. */
  #end(): number {
    const length = this.#reader.uint32();
    const end = this.#reader.pos + length;
    if (end > this.message.length) throw new MalformedMessage('a field goes beyond the end');
    return end;
  }

  #bytes(): Uint8Array {
    const end = this.#end();
    const bytes = this.message.subarray(this.#reader.pos, end);
    this.#reader.pos = end;
    return bytes;
  }

  #text(): string {
    const end = this.#end();
    const text = this.message.toString('utf8', this.#reader.pos, end);
    this.#reader.pos = end;
    return text;
  }
}

const KNOWN: ReadonlySet<string> = new Set(['timeout', 'items', 'priority', 'shared_memory_region', 'classification']);

function added<T>(field: string, list: T[], value: T): void {
  if (list.length === MOST_TENSORS) throw new MalformedMessage(`${field} has more than ${MOST_TENSORS} entries`);
  list.push(value);
}

const invalid = (message: string, field: string): TerabagError => new TerabagError('invalid_argument', message, { field });

const unsupported = (what: string, field: string): TerabagError =>
  new TerabagError('unsupported', `${what} is not supported; send values in the message`, { field });
