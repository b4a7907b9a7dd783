import type { ClientMessage, ShardMessage } from '../../src/rpc/messages.js';

const LETTER_O = 'o'.charCodeAt(0);

export type Kind = ClientMessage['kind'] | ShardMessage['kind'];

/** By the length of the word and its first and third letters, which tell them apart. */
const KINDS: Readonly<Record<string, Kind>> = {
  ...{ '4po': 'pool', '4pn': 'ping', '5hl': 'hello', '5sa': 'stats', '6cn': 'cancel', '7wl': 'welcome', '6po': 'pooled', '5er': 'error' },
};
const CODES = Object.entries(KINDS).map(([key, kind]) => ({
  kind,
  length: Number(key[0]),
  first: key.charCodeAt(1),
  third: key.charCodeAt(2),
}));

/** What a message is, of which only its head is looked at: [version, kind, ...]. */
export function kindOf(message: Uint8Array): Kind | null {
  const length = (message[2] ?? 0) - 0xa0;
  for (const code of CODES) {
    if (code.length !== length || code.first !== message[3] || code.third !== message[5]) continue;
    return code.kind === 'ping' && message[4] === LETTER_O ? 'pong' : code.kind;
  }
  return null;
}
