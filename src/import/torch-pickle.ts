import { type Dtype, dtypeBytes, isCounts, type Refuse, spanOf } from './checkpoint.js';
import { PickleCall, PickleDict, PickleGlobal, PickleList, PicklePersistent, PickleTuple, type PickleValue } from './pickle.js';

/** Storages of torch by their name, which says the dtype; a missing one (null) is untyped, and counts bytes. */
const STORAGE_DTYPES: ReadonlyMap<string, Dtype | null> = new Map([
  ['torch.DoubleStorage', 'F64'],
  ['torch.FloatStorage', 'F32'],
  ['torch.HalfStorage', 'F16'],
  ['torch.BFloat16Storage', 'BF16'],
  ['torch.LongStorage', 'I64'],
  ['torch.IntStorage', 'I32'],
  ['torch.ShortStorage', 'I16'],
  ['torch.CharStorage', 'I8'],
  ['torch.ByteStorage', 'U8'],
  ['torch.BoolStorage', 'BOOL'],
  ['torch.storage.UntypedStorage', null],
  ['torch.UntypedStorage', null],
]);

/** Dtypes of torch by their name; those that safetensors does not have, or that no table has, are missing. */
export const TORCH_DTYPES: ReadonlyMap<string, Dtype> = new Map([
  ['torch.float64', 'F64'],
  ['torch.float32', 'F32'],
  ['torch.float16', 'F16'],
  ['torch.bfloat16', 'BF16'],
  ['torch.int64', 'I64'],
  ['torch.uint64', 'U64'],
  ['torch.int32', 'I32'],
  ['torch.uint32', 'U32'],
  ['torch.int16', 'I16'],
  ['torch.uint16', 'U16'],
  ['torch.int8', 'I8'],
  ['torch.uint8', 'U8'],
  ['torch.bool', 'BOOL'],
]);

const OTHER_DTYPES = ['complex64', 'complex128', 'float8_e4m3fn', 'float8_e5m2', 'qint8', 'quint8', 'qint32', 'quint4x2'].map(
  (name) => `torch.${name}`,
);

const REBUILD_V2 = 'torch._utils._rebuild_tensor_v2';
const REBUILD_V3 = 'torch._utils._rebuild_tensor_v3';
const PARAMETERS: ReadonlySet<string> = new Set(['torch._utils._rebuild_parameter', 'torch._utils._rebuild_parameter_with_state']);

/** Tensors that hold no plain values. Who needs one is told; others of the file are served. */
const OTHER_TENSORS: ReadonlyMap<string, string> = new Map([
  ['torch._utils._rebuild_sparse_tensor', 'a sparse tensor'],
  ['torch._utils._rebuild_qtensor', 'a quantized tensor of torch'],
  ['torch._utils._rebuild_meta_tensor_no_storage', 'a tensor of the meta device, without values'],
  ['torch._utils._rebuild_device_tensor_from_numpy', 'a tensor of another device, pickled as an array'],
  ['torch._utils._rebuild_nested_tensor', 'a nested tensor'],
]);

/** What checkpoints hold beside tensors: read over, and never made. */
const NOTED = [
  'collections.OrderedDict',
  'collections.defaultdict',
  'collections.Counter',
  'builtins.dict',
  'builtins.int',
  'builtins.list',
  'builtins.set',
  'builtins.complex',
  'torch.Size',
  'torch.device',
  'torch.per_channel_affine',
  'torch.per_channel_affine_float_qparams',
  'torch.per_tensor_affine',
  'torch.strided',
  'torch.serialization._get_layout',
  '_codecs.encode',
  'numpy.dtype',
  'numpy.ndarray',
  'numpy.core.multiarray._reconstruct',
  'numpy.core.multiarray.scalar',
  'numpy._core.multiarray._reconstruct',
  'numpy._core.multiarray.scalar',
];

/** Globals that may stand in a pickle of torch. */
export const TORCH_GLOBALS: ReadonlySet<string> = new Set([
  ...STORAGE_DTYPES.keys(),
  ...TORCH_DTYPES.keys(),
  ...OTHER_DTYPES,
  ...['ComplexDoubleStorage', 'ComplexFloatStorage', 'QInt8Storage', 'QUInt8Storage', 'QInt32Storage', 'QUInt4x2Storage'].map(
    (name) => `torch.${name}`,
  ),
  REBUILD_V2,
  REBUILD_V3,
  ...PARAMETERS,
  ...OTHER_TENSORS.keys(),
  ...NOTED,
]);

/** A tensor as a pickle describes it. */
export interface TorchTensor {
  /** Name of its storage. */
  readonly storage: string;
  readonly dtype: Dtype;
  readonly storageValues: number;
  /** Place of the first value in the storage. */
  readonly first: number;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
}

export interface FoundTensors {
  readonly tensors: Map<string, TorchTensor>;
  /** Those that hold no plain values, and why. */
  readonly skipped: Map<string, string>;
}

const MOST_LEVELS = 64;
const MOST_VALUES = 4_000_000;

/**
 * All tensors in dicts, lists and tuples, named by the path that leads to them: state_dict.emb_l.0.weight. What else is there is passed over. A
 * value that contains itself, or many times another, ends in an error and not in memory.
 */
export function findTensors(root: PickleValue, refuse: Refuse): FoundTensors {
  const found: FoundTensors = { tensors: new Map(), skipped: new Map() };
  let values = 0;
  const visit = (value: PickleValue, name: string, level: number): void => {
    if (level > MOST_LEVELS) throw refuse(`its dicts and lists have more than ${MOST_LEVELS} levels: ${name.slice(0, 200)}`);
    if (++values > MOST_VALUES) throw refuse(`its dicts and lists have more than ${MOST_VALUES} values: ${name.slice(0, 200)}`);
    const inside = (key: PickleValue): string => (name === '' ? String(key) : `${name}.${String(key)}`);
    if (value instanceof PickleDict) {
      for (const [key, item] of value.entries) if (isKey(key)) visit(item, inside(key), level + 1);
    } else if (value instanceof PickleList || value instanceof PickleTuple) {
      for (const [at, item] of value.items.entries()) if (typeof item === 'object' && item !== null) visit(item, inside(at), level + 1);
    } else if (value instanceof PickleCall) note(value, name === '' ? 'tensor' : name, found, refuse);
  };
  visit(root, '', 0);
  return found;
}

const isKey = (key: PickleValue): boolean => typeof key === 'string' || typeof key === 'number';

function note(call: PickleCall, name: string, { tensors, skipped }: FoundTensors, refuse: Refuse): void {
  const tensor = tensorCall(call);
  if (tensor === null) return;
  if (tensors.has(name) || skipped.has(name)) throw refuse(`two tensors have one name: ${name}`, { tensor: name });
  const what = OTHER_TENSORS.get(tensor.global.path);
  if (what !== undefined) skipped.set(name, what);
  else {
    const read = rebuilt(tensor, name, refuse);
    if (typeof read === 'string') skipped.set(name, read);
    else tensors.set(name, read);
  }
}

/** The tensor of a parameter, or the tensor itself; null of what is none. */
function tensorCall(call: PickleCall): PickleCall | null {
  if (PARAMETERS.has(call.global.path)) {
    const [data] = call.args;
    return data instanceof PickleCall ? tensorCall(data) : null;
  }
  const { path } = call.global;
  return path === REBUILD_V2 || path === REBUILD_V3 || OTHER_TENSORS.has(path) ? call : null;
}

/** A text says why it cannot be served. */
function rebuilt({ global, args }: PickleCall, name: string, refuse: Refuse): TorchTensor | string {
  const [storage, first, size, stride, , , given] = args;
  const bad = (what: string) => refuse(`tensor is not described as torch does it: ${name}, ${what}`, { tensor: name });
  if (!(storage instanceof PicklePersistent) || !(storage.id instanceof PickleTuple)) throw bad('it has no storage');
  const [word, kind, key, , count] = storage.id.items;
  if (word !== 'storage' || !(kind instanceof PickleGlobal) || typeof key !== 'string' || !isCount(count))
    throw bad('its storage has no name or length');
  const [shape, strides] = [countsOf(size), countsOf(stride)];
  if (!isCount(first) || shape === null || strides === null || shape.length !== strides.length)
    throw bad('its shape or its strides are none');
  const isV3 = global.path === REBUILD_V3;
  const stored = STORAGE_DTYPES.get(kind.path);
  const dtype = isV3 ? (given instanceof PickleGlobal ? TORCH_DTYPES.get(given.path) : undefined) : stored;
  if (dtype === undefined || dtype === null) return `its values are ${isV3 && given instanceof PickleGlobal ? given.path : kind.path}`;
  const storageBytes = count * (stored === null ? 1 : dtypeBytes(stored ?? dtype));
  const storageValues = Math.floor(storageBytes / dtypeBytes(dtype));
  const end = first + spanOf(shape, strides);
  if (!Number.isSafeInteger(end) || end > storageValues)
    throw bad(`it ends at value ${end} of a storage of ${storageValues}, shape ${shape.join('x')}, strides ${strides.join('x')}`);
  return { storage: key, dtype, storageValues, first, shape, strides };
}

const isCount = (value: PickleValue | undefined): value is number => isCounts([value]);

/** Of a tuple, or a torch.Size of one. */
export function countsOf(value: PickleValue | undefined): readonly number[] | null {
  if (value instanceof PickleCall && value.global.path === 'torch.Size') return countsOf(value.args[0]);
  if (!(value instanceof PickleTuple) && !(value instanceof PickleList)) return null;
  const items: readonly unknown[] = value.items;
  return isCounts(items) ? items : null;
}
