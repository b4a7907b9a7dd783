/** Buffers of one request, grown to the largest request seen and used again: no request allocates in proportion to the tables. */
export class Scratch {
  #bytes = new Map<string, ArrayBuffer>();

  #take(key: string, byteLength: number): ArrayBuffer {
    const held = this.#bytes.get(key);
    if (held !== undefined && held.byteLength >= byteLength) return held;
    const grown = new ArrayBuffer(Math.max(256, 2 ** Math.ceil(Math.log2(Math.max(1, byteLength)))));
    this.#bytes.set(key, grown);
    return grown;
  }
  f32(key: string, length: number): Float32Array {
    return new Float32Array(this.#take(key, length * 4), 0, length);
  }
  f64(key: string, length: number): Float64Array {
    return new Float64Array(this.#take(key, length * 8), 0, length);
  }
  u32(key: string, length: number): Uint32Array {
    return new Uint32Array(this.#take(key, length * 4), 0, length);
  }
  i32(key: string, length: number): Int32Array {
    return new Int32Array(this.#take(key, length * 4), 0, length);
  }
  i64(key: string, length: number): BigInt64Array {
    return new BigInt64Array(this.#take(key, length * 8), 0, length);
  }
  u8(key: string, length: number): Uint8Array {
    return new Uint8Array(this.#take(key, length), 0, length);
  }
}

/** The bytes of a typed array, not copied. */
export const bytesOf = (array: ArrayBufferView): Uint8Array => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
