import { KeyIndexWriter, KeysByRow, keysOf } from '../../../engine/key-index.js';
import type { OpenKeyIndex } from '../../../model/bundle.js';
import type { FileChecksum } from '../../../tables/checksum.js';
import { partsOfKeys } from '../../../tables/key-index.js';
import type { RowPart } from '../../../tables/rows.js';

/** Of all indexes that are written at a time together. */
const KEYS_IN_MEMORY = 2 ** 21;

/** How many keys each part of a keyed table has. */
export async function countKeys(index: OpenKeyIndex, parts: number, stop: () => void): Promise<number[]> {
  const counts = new Array<number>(parts).fill(0);
  let partOf = new Uint32Array(0);
  for await (const keys of keysOf(index)) {
    stop();
    if (partOf.length < keys.length) partOf = new Uint32Array(keys.length);
    partsOfKeys(keys, parts, partOf);
    for (let k = 0; k < keys.length; k++) counts[partOf[k] as number] = (counts[partOf[k] as number] as number) + 1;
  }
  return counts;
}

/** An index of a part to be written. */
export interface IndexOfPart extends RowPart {
  readonly path: string;
  readonly tensor: string;
  readonly keys: number;
}

/** Gives the rows of a keyed table to parts by their keys, and indexes those of each part. To be closed. */
export class KeySplitter {
  readonly #writers: readonly { readonly of: IndexOfPart; readonly writer: KeyIndexWriter; block: BigInt64Array }[];

  private constructor(
    private readonly keys: KeysByRow,
    private readonly parts: number,
    indexes: readonly IndexOfPart[],
  ) {
    const keysInMemory = Math.ceil(KEYS_IN_MEMORY / Math.max(1, indexes.length));
    this.#writers = indexes.map((of) => {
      const writer = new KeyIndexWriter(of.path, { rows: of.keys, tensor: of.tensor, keysInMemory });
      return { of, writer, block: new BigInt64Array(0) };
    });
  }

  static async open(
    index: OpenKeyIndex,
    parts: number,
    indexes: readonly IndexOfPart[],
    directory: string,
    stop: () => void,
  ): Promise<KeySplitter> {
    return new KeySplitter(await KeysByRow.read(index, directory, stop), parts, indexes);
  }

  /** The part of each of the next rows, whose keys go into their indexes. */
  async partsOfRows(into: Uint32Array): Promise<void> {
    const keys = new BigInt64Array(into.length);
    await this.keys.next(keys);
    partsOfKeys(keys, this.parts, into);
    for (const each of this.#writers) {
      if (each.block.length < keys.length) each.block = new BigInt64Array(keys.length);
      let count = 0;
      for (let row = 0; row < keys.length; row++) if (into[row] === each.of.part) each.block[count++] = keys[row] as bigint;
      await each.writer.add(each.block.subarray(0, count));
    }
  }

  /** Writes the indexes when all rows were given; their checksums. */
  async finish(signal: AbortSignal | undefined): Promise<FileChecksum[]> {
    const written: FileChecksum[] = [];
    for (const { writer } of this.#writers) {
      const { bytes, crc32 } = await writer.finish({ signal });
      writer.close();
      written.push({ bytes, crc32 });
    }
    return written;
  }

  close(): void {
    this.keys.close();
    for (const { writer } of this.#writers) writer.close();
  }
}
