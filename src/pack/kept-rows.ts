/** Reads of a row are counted up to here; such a row is kept whatever the threshold. */
export const MOST_READS = 255;

/** The rows of a table that are read at least so often. */
export class KeptRows {
  readonly count: number;

  /** reads: of each row, up to MOST_READS; not copied. */
  constructor(
    private readonly reads: Uint8Array,
    readonly atLeast: number,
  ) {
    this.count = reads.reduce((sum, each) => sum + (each >= atLeast ? 1 : 0), 0);
  }

  /** Of the table. */
  get rows(): number {
    return this.reads.length;
  }

  has(row: number): boolean {
    return (this.reads[row] as number) >= this.atLeast;
  }

  /** Where a kept row is among those that are kept. */
  placeOf(row: number): number {
    let place = 0;
    for (let before = 0; before < row; before++) if (this.has(before)) place++;
    return place;
  }

  /** Of so many rows from `from` on, those that are kept come one behind another at the start of the memory; returns how many they are. */
  gather(memory: Uint8Array, rowBytes: number, from: number, count: number): number {
    let kept = 0;
    for (let row = 0; row < count; row++) {
      if (!this.has(from + row)) continue;
      if (kept !== row) memory.copyWithin(kept * rowBytes, row * rowBytes, (row + 1) * rowBytes);
      kept++;
    }
    return kept;
  }

  /** The same of keys. */
  gatherKeys(keys: BigInt64Array, from: number): BigInt64Array {
    let kept = 0;
    for (let row = 0; row < keys.length; row++) if (this.has(from + row)) keys[kept++] = keys[row] as bigint;
    return keys.subarray(0, kept);
  }

  /** The row that is the n-th of those kept from `from` on. */
  rowAt(from: number, n: number): number {
    let row = from;
    for (let left = n; left > 0 || !this.has(row); row++) if (this.has(row)) left--;
    return row;
  }
}
