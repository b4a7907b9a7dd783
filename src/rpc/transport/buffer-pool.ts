import { IdlePool } from '../../idle-pool.js';

/** Bytes that are lent. Views of them must not outlive release(), after which others write to them; what is never released is garbage collected. */
export interface Lent {
  readonly bytes: Uint8Array;
  /** Once or more often. */
  release(): void;
}

const SMALLEST = 10;
/** Bytes that a pool keeps for later. */
const KEPT_BYTES = 128 * 1024 * 1024;

/**
 * Buffers of powers of two that are used again. Fresh ones would lie outside V8's heap, where every 32 MiB make it collect all garbage, and
 * every large one would consist of pages that were never touched. What a burst leaves behind is garbage collected; see IdlePool.
 */
export class BufferPool {
  /** By the logarithm of their length. */
  readonly #free: IdlePool<ArrayBuffer>[] = [];
  #keptBytes = 0;

  take(byteLength: number): Lent {
    const size = Math.max(SMALLEST, Math.ceil(Math.log2(byteLength)));
    const kept = this.#free[size]?.take();
    if (kept !== undefined) this.#keptBytes -= kept.byteLength;
    return new LentBuffer(this, kept ?? new ArrayBuffer(2 ** size), byteLength);
  }

  giveBack(buffer: ArrayBuffer): void {
    if (this.#keptBytes + buffer.byteLength > KEPT_BYTES) return;
    this.#keptBytes += buffer.byteLength;
    const size = Math.log2(buffer.byteLength);
    this.#free[size] ??= new IdlePool({ dropped: ({ byteLength }) => (this.#keptBytes -= byteLength) });
    this.#free[size].giveBack(buffer);
  }
}

/** Holds this process's messages. */
export const messageBuffers = new BufferPool();

class LentBuffer implements Lent {
  readonly bytes: Uint8Array;
  #buffer: ArrayBuffer | null;

  constructor(
    private readonly pool: BufferPool,
    buffer: ArrayBuffer,
    byteLength: number,
  ) {
    this.#buffer = buffer;
    this.bytes = new Uint8Array(buffer, 0, byteLength);
  }

  release(): void {
    if (this.#buffer !== null) this.pool.giveBack(this.#buffer);
    this.#buffer = null;
  }
}
