import { type Lent, messageBuffers } from '../../src/rpc/transport/buffer-pool.js';
import { outside } from './guards.js';
import { running, type SimulatedProcess } from './process.js';
import type { Violations } from './violations.js';

/** What a buffer is full of from its release on: whoever still reads it reads this, and whoever writes to it is found out. */
const POISON = 0xd7;

let poison = new Uint8Array(0);
/** So many bytes of it, to compare with. */
function poisoned(bytes: number): Uint8Array {
  if (poison.byteLength < bytes) poison = new Uint8Array(2 * bytes).fill(POISON);
  return poison.subarray(0, bytes);
}

interface Lending {
  readonly by: SimulatedProcess | null;
  readonly bytes: number;
}

/**
 * Watches the pool that all messages lie in: buffers that are lent to two, written to after their release, or never released. It lends what the
 * real pool lends.
 */
export class CheckedBuffers {
  readonly #lent = new Map<ArrayBufferLike, Lending>();
  readonly #poisoned = new WeakSet<ArrayBufferLike>();
  readonly #take = messageBuffers.take.bind(messageBuffers);
  taken = 0;

  constructor(private readonly violations: Violations) {}

  /** From now on, until the function that it returns is called. */
  watch(): () => void {
    messageBuffers.take = (byteLength) => this.#lend(byteLength);
    return () => {
      messageBuffers.take = this.#take;
    };
  }

  /** Bytes that a process has not given back. */
  lentTo(process: SimulatedProcess): number {
    let bytes = 0;
    for (const lending of this.#lent.values()) if (lending.by === process) bytes += lending.bytes;
    return bytes;
  }

  /** The process is gone, with its memory. */
  forget(process: SimulatedProcess): void {
    for (const [buffer, { by }] of this.#lent) if (by === process) this.#lent.delete(buffer);
  }

  #lend(byteLength: number): Lent {
    const lent = outside(() => this.#take(byteLength));
    const { buffer } = lent.bytes;
    this.taken++;
    this.violations.hold('lent-twice', !this.#lent.has(buffer), () => `a buffer of ${buffer.byteLength} bytes is lent to two`);
    if (this.#poisoned.has(buffer)) this.#checkPoison(new Uint8Array(buffer));
    this.#lent.set(buffer, { by: running.process, bytes: byteLength });
    return new CheckedBuffer(lent, this.#giveBack);
  }

  readonly #giveBack = (lent: Lent): void => {
    const { buffer } = lent.bytes;
    // Of a process that was killed: lent to nobody any more.
    if (!this.#lent.delete(buffer)) return;
    new Uint8Array(buffer).fill(POISON);
    this.#poisoned.add(buffer);
    outside(() => lent.release());
  };

  #checkPoison(bytes: Uint8Array): void {
    const intact = Buffer.compare(bytes, poisoned(bytes.byteLength)) === 0;
    this.violations.hold(
      'written-after-release',
      intact,
      () => `somebody wrote to a buffer of ${bytes.byteLength} bytes after its release`,
    );
  }
}

class CheckedBuffer implements Lent {
  readonly bytes: Uint8Array;
  #released = false;

  constructor(
    private readonly lent: Lent,
    private readonly giveBack: (lent: Lent) => void,
  ) {
    this.bytes = lent.bytes;
  }

  release(): void {
    if (!this.#released) this.giveBack(this.lent);
    this.#released = true;
  }
}
