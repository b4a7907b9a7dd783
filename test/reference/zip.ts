import { crc32 } from 'node:zlib';

/** An entry of a zip for tests; what is given beside name and data replaces what would be right. */
export interface WrittenEntry {
  readonly name: string;
  readonly data: Uint8Array;
  readonly method?: number;
  readonly flags?: number;
  readonly crc32?: number;
  readonly bytes?: number;
  readonly stored?: number;
  readonly offset?: number;
  readonly localName?: string;
}

export interface WrittenZip {
  readonly entries: readonly WrittenEntry[];
  /** With the 64-bit records. */
  readonly wide?: boolean;
  readonly count?: number;
  readonly directoryOffset?: number;
}

/** Bytes of a zip whose entries start at multiples of 64, as torch writes it. */
export function zipOf({ entries, wide = false, count = entries.length, directoryOffset }: WrittenZip): Buffer {
  const parts: Buffer[] = [];
  let at = 0;
  const put = (...more: Buffer[]): void => {
    for (const part of more) at += part.length;
    parts.push(...more);
  };
  const directory: Buffer[] = [];
  for (const entry of entries) {
    const { name, data, method = 0, flags = 0, bytes = data.length, stored = data.length, offset = at, localName = name } = entry;
    const sum = entry.crc32 ?? crc32(data);
    const padding = (64 - ((at + 30 + Buffer.byteLength(localName)) % 64)) % 64;
    const header = Buffer.alloc(30);
    header.writeUInt32LE(0x04034b50);
    header.writeUInt16LE(flags, 6);
    header.writeUInt16LE(method, 8);
    header.writeUInt16LE(Buffer.byteLength(localName), 26);
    header.writeUInt16LE(padding, 28);
    put(header, Buffer.from(localName), Buffer.alloc(padding), Buffer.from(data));
    const extra = Buffer.alloc(wide ? 28 : 0);
    if (wide) {
      extra.writeUInt16LE(1);
      extra.writeUInt16LE(24, 2);
      for (const [n, value] of [bytes, stored, offset].entries()) extra.writeBigUInt64LE(BigInt(value), 4 + 8 * n);
    }
    const listed = Buffer.alloc(46);
    listed.writeUInt32LE(0x02014b50);
    listed.writeUInt16LE(flags, 8);
    listed.writeUInt16LE(method, 10);
    listed.writeUInt32LE(sum, 16);
    listed.writeUInt32LE(wide ? 0xffffffff : stored, 20);
    listed.writeUInt32LE(wide ? 0xffffffff : bytes, 24);
    listed.writeUInt16LE(Buffer.byteLength(name), 28);
    listed.writeUInt16LE(extra.length, 30);
    listed.writeUInt32LE(wide ? 0xffffffff : offset, 42);
    directory.push(listed, Buffer.from(name), extra);
  }
  const from = directoryOffset ?? at;
  put(...directory);
  const length = directory.reduce((sum, part) => sum + part.length, 0);
  if (wide) {
    const end = Buffer.alloc(76);
    end.writeUInt32LE(0x06064b50);
    end.writeBigUInt64LE(44n, 4);
    for (const [n, value] of [count, count, length, from].entries()) end.writeBigUInt64LE(BigInt(value), 24 + 8 * n);
    end.writeUInt32LE(0x07064b50, 56);
    end.writeBigUInt64LE(BigInt(at), 64);
    end.writeUInt32LE(1, 72);
    put(end);
  }
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50);
  end.writeUInt16LE(wide ? 0xffff : count, 8);
  end.writeUInt16LE(wide ? 0xffff : count, 10);
  end.writeUInt32LE(wide ? 0xffffffff : length, 12);
  end.writeUInt32LE(wide ? 0xffffffff : from, 16);
  put(end);
  return Buffer.concat(parts);
}
