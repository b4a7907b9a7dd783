/** Of a message that is no protobuf; callers say which. */
export class MalformedMessage extends Error {}

/** How many varints there are in bytes that hold nothing else. Throws MalformedMessage when the last one is cut off. */
export function countVarints(bytes: Uint8Array): number {
  const { length } = bytes;
  if (length > 0 && (bytes[length - 1] as number) >= 0x80) throw new MalformedMessage('a packed field ends within a value');
  let count = 0;
  for (let at = 0; at < length; at++) if ((bytes[at] as number) < 0x80) count++;
  return count;
}

/**
 * Decodes count varints: of each, its low 32 bits at words[n * stride], and where stride is 2, its high 32 bits behind them, so that words are 64-bit
 * integers. Throws MalformedMessage of one that is longer than 10 bytes. A bigint for each would take several times as long.
 */
export function decodeVarints(bytes: Uint8Array, count: number, words: Uint32Array, stride: 1 | 2): void {
  let at = 0;
  for (let n = 0; n < count; n++) {
    let byte = bytes[at++] as number;
    let low = byte & 0x7f;
    let high = 0;
    for (let shift = 7; byte >= 0x80; shift += 7) {
      if (shift > 63) throw new MalformedMessage('an integer has more than 10 bytes');
      byte = bytes[at++] as number;
      const bits = byte & 0x7f;
      if (shift < 28) low |= bits << shift;
      else if (shift > 28) high |= bits << (shift - 32);
      else {
        low |= bits << 28;
        high = bits >>> 4;
      }
    }
    words[n * stride] = low;
    if (stride === 2) words[n * 2 + 1] = high;
  }
}
