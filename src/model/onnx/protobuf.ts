/** A field of a protobuf message: a number (varint), bytes (length-delimited), or null of a fixed width, which nobody here reads. */
export interface ProtobufField {
  readonly number: number;
  readonly value: number | Uint8Array | null;
}

const VARINT = 0;
const FIXED64 = 1;
const BYTES = 2;
const FIXED32 = 5;
/** A varint of 64 bits has 10 bytes of 7 bits. */
const MOST_VARINT_BYTES = 10;

/** Reads the fields of a message one after another; throws a SyntaxError at what no message has. Views of the bytes, nothing is copied. */
export class ProtobufReader {
  #at = 0;

  constructor(private readonly bytes: Uint8Array) {}

  /** Null at the end. */
  next(): ProtobufField | null {
    if (this.#at === this.bytes.length) return null;
    const start = this.#at;
    const tag = this.#varint();
    const number = Math.floor(tag / 8);
    if (number < 1 || number >= 2 ** 29) throw new SyntaxError(`no field has number ${number}, position ${start}`);
    switch (tag % 8) {
      case VARINT:
        return { number, value: this.#varint() };
      case BYTES: {
        const length = this.#varint();
        return { number, value: this.#take(length) };
      }
      case FIXED64:
        this.#take(8);
        return { number, value: null };
      case FIXED32:
        this.#take(4);
        return { number, value: null };
      default:
        throw new SyntaxError(`no wire type ${tag % 8}, position ${start}`);
    }
  }

  /** Of a repeated field that is packed: the next number; null at the end. */
  nextNumber(): number | null {
    return this.#at === this.bytes.length ? null : this.#varint();
  }

  #take(length: number): Uint8Array {
    const end = this.#at + length;
    if (end > this.bytes.length) throw new SyntaxError(`a field ends at ${end}, its message at ${this.bytes.length}, position ${this.#at}`);
    const taken = this.bytes.subarray(this.#at, end);
    this.#at = end;
    return taken;
  }

  /** As an unsigned number: exact below 2^53, and negative ones are far beyond. */
  #varint(): number {
    let value = 0;
    let scale = 1;
    for (let read = 0; read < MOST_VARINT_BYTES; read++) {
      const byte = this.bytes[this.#at];
      if (byte === undefined) throw new SyntaxError(`a number is cut short, position ${this.#at}`);
      this.#at++;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
      scale *= 0x80;
    }
    throw new SyntaxError(`a number has more than 64 bits, position ${this.#at}`);
  }
}
