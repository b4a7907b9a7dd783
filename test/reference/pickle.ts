/** Bytes of pickles for tests: a value that Python's pickle would read, in protocol 2, or raw opcodes. */
export type Written =
  | null
  | boolean
  | number
  | string
  | readonly Written[]
  | { readonly dict: readonly (readonly [Written, Written])[] }
  | { readonly raw: Uint8Array };

const bytes = (...parts: (number | string | Uint8Array)[]): Uint8Array =>
  Buffer.concat(
    parts.map((part) => (typeof part === 'number' ? Uint8Array.of(part) : typeof part === 'string' ? Buffer.from(part) : part)),
  );

const uint32 = (value: number): Uint8Array => new Uint8Array(Uint32Array.of(value).buffer);

/** The opcodes of a value; arrays are tuples. */
export function pickled(value: Written): Uint8Array {
  if (value === null) return bytes('N');
  if (value === true) return bytes(0x88);
  if (value === false) return bytes(0x89);
  if (typeof value === 'number') return pickledNumber(value);
  if (typeof value === 'string') return bytes('X', uint32(Buffer.byteLength(value)), value);
  if (Array.isArray(value)) return bytes('(', ...value.map(pickled), 't');
  if ('raw' in value) return value.raw;
  const { dict } = value as { readonly dict: readonly (readonly [Written, Written])[] };
  return bytes('}', '(', ...dict.flatMap(([key, item]) => [pickled(key), pickled(item)]), 'u');
}

function pickledNumber(value: number): Uint8Array {
  if (Number.isInteger(value) && Math.abs(value) < 2 ** 31) return bytes('J', uint32(value));
  if (Number.isInteger(value)) return bytes(0x8a, 8, new Uint8Array(BigInt64Array.of(BigInt(value)).buffer));
  const float = Buffer.alloc(8);
  float.writeDoubleBE(value);
  return bytes('G', float);
}

export const global = (module: string, name: string): { raw: Uint8Array } => ({ raw: bytes('c', module, '\n', name, '\n') });
export const call = (what: Written, args: readonly Written[]): { raw: Uint8Array } => ({ raw: bytes(pickled(what), pickled(args), 'R') });
export const persistent = (id: Written): { raw: Uint8Array } => ({ raw: bytes(pickled(id), 'Q') });
export const opcodes = (...parts: (number | string | Uint8Array)[]): { raw: Uint8Array } => ({ raw: bytes(...parts) });
export const pickleOf = (value: Written): Uint8Array => bytes(0x80, 2, pickled(value), '.');

/** A tensor of a state dict as torch pickles it. */
export function tensor(
  storage: string,
  { values, first = 0, shape, strides }: { values: number; first?: number; shape: readonly number[]; strides: readonly number[] },
): Written {
  const stored = persistent(['storage', global('torch', 'FloatStorage'), storage, 'cpu', values]);
  return call(global('torch._utils', '_rebuild_tensor_v2'), [
    stored,
    first,
    shape,
    strides,
    false,
    call(global('collections', 'OrderedDict'), []),
  ]);
}
