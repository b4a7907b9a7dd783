const NONE: ReadonlySet<string> = new Set();

/** Buffers of one request, grown to the largest request seen and used again: no request allocates in proportion to the tables. */
export class Scratch {
  readonly #bytes = new Map<string, ArrayBufferLike>();
  /** What each key was last asked for: requests of one size in a row make no views. */
  readonly #views = new Map<string, ArrayBufferView>();
  /** The most bytes that each key was asked for in this period. */
  readonly #asked = new Map<string, number>();

  constructor(
    /** Keys of buffers that other threads read where they lie. */
    private readonly shared: ReadonlySet<string> = NONE,
  ) {}

  /** Bytes that are held, and of these, those that were asked for since the last call. */
  endPeriod(): { readonly held: number; readonly asked: number } {
    const sum = (sizes: Iterable<number>): number => [...sizes].reduce((total, bytes) => total + bytes, 0);
    const held = sum([...this.#bytes.values()].map(({ byteLength }) => byteLength));
    const asked = sum(this.#asked.values());
    this.#asked.clear();
    // The next call for each key is counted again.
    this.#views.clear();
    return { held, asked };
  }

  #take(key: string, byteLength: number): ArrayBufferLike {
    if (byteLength > (this.#asked.get(key) ?? 0)) this.#asked.set(key, byteLength);
    const held = this.#bytes.get(key);
    if (held !== undefined && held.byteLength >= byteLength) return held;
    const length = Math.max(256, 2 ** Math.ceil(Math.log2(Math.max(1, byteLength))));
    const grown = this.shared.has(key) ? new SharedArrayBuffer(length) : new ArrayBuffer(length);
    this.#bytes.set(key, grown);
    return grown;
  }

  #keep<T extends ArrayBufferView>(key: string, view: T): T {
    this.#views.set(key, view);
    return view;
  }

  f32(key: string, length: number): Float32Array {
    const held = this.#views.get(key);
    if (held instanceof Float32Array && held.length === length) return held;
    return this.#keep(key, new Float32Array(this.#take(key, length * 4), 0, length));
  }
  f64(key: string, length: number): Float64Array {
    const held = this.#views.get(key);
    if (held instanceof Float64Array && held.length === length) return held;
    return this.#keep(key, new Float64Array(this.#take(key, length * 8), 0, length));
  }
  u32(key: string, length: number): Uint32Array {
    const held = this.#views.get(key);
    if (held instanceof Uint32Array && held.length === length) return held;
    return this.#keep(key, new Uint32Array(this.#take(key, length * 4), 0, length));
  }
  i32(key: string, length: number): Int32Array {
    const held = this.#views.get(key);
    if (held instanceof Int32Array && held.length === length) return held;
    return this.#keep(key, new Int32Array(this.#take(key, length * 4), 0, length));
  }
  i64(key: string, length: number): BigInt64Array {
    const held = this.#views.get(key);
    if (held instanceof BigInt64Array && held.length === length) return held;
    return this.#keep(key, new BigInt64Array(this.#take(key, length * 8), 0, length));
  }
  u8(key: string, length: number): Uint8Array {
    const held = this.#views.get(key);
    if (held instanceof Uint8Array && held.length === length) return held;
    return this.#keep(key, new Uint8Array(this.#take(key, length), 0, length));
  }
}

/** The bytes of a typed array, not copied. */
export const bytesOf = (array: ArrayBufferView): Uint8Array => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
