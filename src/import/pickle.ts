import { decodeExactly } from '../tables/json.js';
import type { Refuse } from './checkpoint.js';

/**
 * Reads pickles of Python (protocols 2 to 5) as data. Nothing is imported and nothing is called: a global is a name, of those alone that the caller
 * knows, and what Python would call stays a PickleCall, which the caller reads as it sees fit.
 */
export type PickleValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | PickleList
  | PickleTuple
  | PickleDict
  | PickleSet
  | PickleGlobal
  | PickleCall
  | PicklePersistent;

export class PickleList {
  readonly items: PickleValue[] = [];
}

export class PickleTuple {
  constructor(readonly items: readonly PickleValue[]) {}
}

/** A dict or one of its kin that keep the order of their keys: OrderedDict, defaultdict. */
export class PickleDict {
  readonly entries = new Map<PickleValue, PickleValue>();

  get(key: string): PickleValue | undefined {
    return this.entries.get(key);
  }
}

export class PickleSet {
  readonly items: PickleValue[] = [];
}

export class PickleGlobal {
  constructor(
    readonly module: string,
    readonly name: string,
  ) {}

  get path(): string {
    return `${this.module}.${this.name}`;
  }
}

/** What Python would make by a call of `global`, and what it would then set as its state. */
export class PickleCall {
  state: PickleValue | undefined = undefined;

  constructor(
    readonly global: PickleGlobal,
    readonly args: readonly PickleValue[],
  ) {}
}

/** A name of what lies elsewhere: of torch, a storage. */
export class PicklePersistent {
  constructor(readonly id: PickleValue) {}
}

/** Containers and strings of one pickle: a checkpoint has some ten for each tensor, and each costs memory of some hundred bytes. */
const MOST_OBJECTS = 4_000_000;
/** Digits of counts, sizes and seeds are fewer. */
const LONGEST_INTEGER_BYTES = 64;

/** Dicts of the library, which are read as such. */
const DICTS: ReadonlySet<string> = new Set(['collections.OrderedDict', 'collections.defaultdict', 'collections.Counter']);

/** Opcodes by their byte; pickletools of Python describes them. */
const Op = {
  MARK: 0x28,
  STOP: 0x2e,
  POP: 0x30,
  POP_MARK: 0x31,
  DUP: 0x32,
  BINBYTES: 0x42,
  SHORT_BINBYTES: 0x43,
  FLOAT: 0x47,
  BININT: 0x4a,
  BININT1: 0x4b,
  BININT2: 0x4d,
  NONE: 0x4e,
  BINPERSID: 0x51,
  REDUCE: 0x52,
  BINSTRING: 0x54,
  SHORT_BINSTRING: 0x55,
  BINUNICODE: 0x58,
  APPEND: 0x61,
  BUILD: 0x62,
  GLOBAL: 0x63,
  APPENDS: 0x65,
  BINGET: 0x68,
  LONG_BINGET: 0x6a,
  BINPUT: 0x71,
  LONG_BINPUT: 0x72,
  SETITEM: 0x73,
  TUPLE: 0x74,
  SETITEMS: 0x75,
  EMPTY_LIST: 0x5d,
  EMPTY_TUPLE: 0x29,
  EMPTY_DICT: 0x7d,
  PROTO: 0x80,
  NEWOBJ: 0x81,
  TUPLE1: 0x85,
  TUPLE2: 0x86,
  TUPLE3: 0x87,
  NEWTRUE: 0x88,
  NEWFALSE: 0x89,
  LONG1: 0x8a,
  SHORT_BINUNICODE: 0x8c,
  BINUNICODE8: 0x8d,
  BINBYTES8: 0x8e,
  EMPTY_SET: 0x8f,
  ADDITEMS: 0x90,
  FROZENSET: 0x91,
  NEWOBJ_EX: 0x92,
  STACK_GLOBAL: 0x93,
  MEMOIZE: 0x94,
  FRAME: 0x95,
  BYTEARRAY8: 0x96,
} as const;

export interface PickleOptions {
  /** Paths (module.name) of the globals that may stand in it. */
  readonly globals: ReadonlySet<string>;
  /** Makes the error of what cannot be read (bad_checkpoint). */
  readonly refuse: Refuse;
}

/** The value of a pickle that takes all of the data. */
export function readPickle(data: Uint8Array, options: PickleOptions): PickleValue {
  return new PickleReader(data, options).read();
}

class PickleReader {
  readonly #view: DataView;
  readonly #refuse: Refuse;
  #at = 0;
  #objects = 0;
  #stack: PickleValue[] = [];
  /** Stacks below the marks that are open. */
  readonly #below: PickleValue[][] = [];
  readonly #memo = new Map<number, PickleValue>();
  readonly #globals = new Map<string, PickleGlobal>();

  constructor(
    private readonly data: Uint8Array,
    private readonly options: PickleOptions,
  ) {
    this.#view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    this.#refuse = (what, details) =>
      options.refuse(`not a pickle that can be read: ${what}, at byte ${this.#at} of ${data.length}`, details);
  }

  read(): PickleValue {
    if (this.data[0] !== Op.PROTO) throw this.#refuse('it does not start with a protocol of 2 or more');
    for (;;) {
      const opcode = this.#byte();
      if (opcode === Op.STOP) return this.#end();
      this.#run(opcode);
    }
  }

  #end(): PickleValue {
    const value = this.#pop();
    if (this.#stack.length > 0 || this.#below.length > 0) throw this.#refuse('more than one value is left at its end');
    if (this.#at !== this.data.length) throw this.#refuse(`${this.data.length - this.#at} bytes follow its end`);
    return value;
  }

  #run(opcode: number): void {
    switch (opcode) {
      case Op.PROTO: {
        const version = this.#byte();
        if (version < 2 || version > 5) throw this.#refuse(`protocol ${version}, expected 2 to 5`);
        break;
      }
      case Op.FRAME:
        if (this.#long() > this.data.length - this.#at) throw this.#refuse('a frame ends beyond the data');
        break;
      case Op.MARK:
        this.#count();
        this.#below.push(this.#stack);
        this.#stack = [];
        break;
      case Op.POP:
        if (this.#stack.length > 0) this.#pop();
        else this.#toMark();
        break;
      case Op.POP_MARK:
        this.#toMark();
        break;
      case Op.DUP:
        this.#push(this.#top());
        break;
      case Op.NONE:
        this.#push(null);
        break;
      case Op.NEWTRUE:
        this.#push(true);
        break;
      case Op.NEWFALSE:
        this.#push(false);
        break;
      case Op.BININT:
        this.#push(this.#view.getInt32(this.#skip(4), true));
        break;
      case Op.BININT1:
        this.#push(this.#byte());
        break;
      case Op.BININT2:
        this.#push(this.#view.getUint16(this.#skip(2), true));
        break;
      case Op.LONG1:
        this.#push(this.#integer(this.#byte()));
        break;
      case Op.FLOAT:
        this.#push(this.#view.getFloat64(this.#skip(8), false));
        break;
      case Op.SHORT_BINUNICODE:
        this.#push(this.#text(this.#byte()));
        break;
      case Op.BINUNICODE:
        this.#push(this.#text(this.#view.getUint32(this.#skip(4), true)));
        break;
      case Op.BINUNICODE8:
        this.#push(this.#text(this.#long()));
        break;
      // Strings of Python 2, which may be text or bytes.
      case Op.SHORT_BINSTRING:
        this.#push(this.#text(this.#byte()));
        break;
      case Op.BINSTRING:
        this.#push(this.#text(this.#view.getUint32(this.#skip(4), true)));
        break;
      case Op.SHORT_BINBYTES:
        this.#push(this.#bytes(this.#byte()));
        break;
      case Op.BINBYTES:
        this.#push(this.#bytes(this.#view.getUint32(this.#skip(4), true)));
        break;
      case Op.BINBYTES8:
      case Op.BYTEARRAY8:
        this.#push(this.#bytes(this.#long()));
        break;
      case Op.EMPTY_LIST:
        this.#push(this.#counted(new PickleList()));
        break;
      case Op.EMPTY_DICT:
        this.#push(this.#counted(new PickleDict()));
        break;
      case Op.EMPTY_SET:
        this.#push(this.#counted(new PickleSet()));
        break;
      case Op.EMPTY_TUPLE:
        this.#push(this.#counted(new PickleTuple([])));
        break;
      case Op.TUPLE1:
        this.#tuple(1);
        break;
      case Op.TUPLE2:
        this.#tuple(2);
        break;
      case Op.TUPLE3:
        this.#tuple(3);
        break;
      case Op.TUPLE:
        this.#push(this.#counted(new PickleTuple(this.#toMark())));
        break;
      case Op.FROZENSET: {
        const set = this.#counted(new PickleSet());
        for (const item of this.#toMark()) set.items.push(item);
        this.#push(set);
        break;
      }
      case Op.APPEND:
        this.#extend(PickleList, [this.#pop()]);
        break;
      case Op.APPENDS:
        this.#extend(PickleList, this.#toMark());
        break;
      case Op.ADDITEMS:
        this.#extend(PickleSet, this.#toMark());
        break;
      case Op.SETITEM: {
        const value = this.#pop();
        this.#setItems([this.#pop(), value]);
        break;
      }
      case Op.SETITEMS:
        this.#setItems(this.#toMark());
        break;
      case Op.GLOBAL:
        this.#push(this.#global(this.#line(), this.#line()));
        break;
      case Op.STACK_GLOBAL: {
        const [module, name] = this.#popped(2);
        if (typeof module !== 'string' || typeof name !== 'string') throw this.#refuse('a global has no name that is a text');
        this.#push(this.#global(module, name));
        break;
      }
      case Op.REDUCE:
      case Op.NEWOBJ: {
        const [global, args] = this.#popped(2);
        this.#call(global, args);
        break;
      }
      case Op.NEWOBJ_EX: {
        const [global, args, keywords] = this.#popped(3);
        if (!(keywords instanceof PickleDict) || keywords.entries.size > 0) throw this.#refuse('a call with arguments by name');
        this.#call(global, args);
        break;
      }
      case Op.BUILD: {
        const state = this.#pop();
        const target = this.#top();
        // What a dict is given beside its items is no part of it: of a state dict, the versions of its modules.
        if (target instanceof PickleCall) target.state = state;
        else if (!(target instanceof PickleDict)) throw this.#refuse('a state of what has none');
        break;
      }
      case Op.BINPERSID:
        this.#push(this.#counted(new PicklePersistent(this.#pop())));
        break;
      case Op.BINPUT:
        this.#put(this.#byte());
        break;
      case Op.LONG_BINPUT:
        this.#put(this.#view.getUint32(this.#skip(4), true));
        break;
      case Op.MEMOIZE:
        this.#put(this.#memo.size);
        break;
      case Op.BINGET:
        this.#get(this.#byte());
        break;
      case Op.LONG_BINGET:
        this.#get(this.#view.getUint32(this.#skip(4), true));
        break;
      default:
        throw this.#refuse(`opcode 0x${opcode.toString(16).padStart(2, '0')} is none that a checkpoint needs`);
    }
  }

  /** Moves past so many bytes, and returns where they start. */
  #skip(length: number): number {
    if (length > this.data.length - this.#at) throw this.#refuse(`it ends within ${length} bytes (truncated?)`);
    this.#at += length;
    return this.#at - length;
  }

  #byte(): number {
    return this.data[this.#skip(1)] as number;
  }

  #take(length: number): Uint8Array {
    const from = this.#skip(length);
    return this.data.subarray(from, from + length);
  }

  /** A length of 64 bits; one beyond the data is refused by who takes it. */
  #long(): number {
    return Number(this.#view.getBigUint64(this.#skip(8), true));
  }

  #line(): string {
    const end = this.data.indexOf(0x0a, this.#at);
    if (end < 0) throw this.#refuse('a line has no end');
    const text = this.#text(end - this.#at);
    this.#at++;
    return text;
  }

  #text(length: number): string {
    const text = decodeExactly(this.#take(length));
    if (text === null) throw this.#refuse('a text is not UTF-8');
    return this.#counted(text);
  }

  #bytes(length: number): Uint8Array {
    return this.#counted(this.#take(length));
  }

  /** Little-endian, two's complement. */
  #integer(length: number): number | bigint {
    if (length > LONGEST_INTEGER_BYTES) throw this.#refuse(`an integer of ${length} bytes`);
    let value = 0n;
    for (const byte of this.#take(length).toReversed()) value = (value << 8n) | BigInt(byte);
    const signed = BigInt.asIntN(8 * length, value);
    return BigInt(Number(signed)) === signed && Number.isSafeInteger(Number(signed)) ? Number(signed) : signed;
  }

  #count(): void {
    if (++this.#objects > MOST_OBJECTS) throw this.#refuse(`more than ${MOST_OBJECTS} objects`);
  }

  #counted<T extends PickleValue>(value: T): T {
    this.#count();
    return value;
  }

  #push(value: PickleValue): void {
    this.#stack.push(value);
  }

  #pop(): PickleValue {
    const value = this.#stack.pop();
    if (value === undefined) throw this.#refuse('a value is missing');
    return value;
  }

  #popped(count: number): PickleValue[] {
    if (this.#stack.length < count) throw this.#refuse('a value is missing');
    return this.#stack.splice(-count);
  }

  #top(): PickleValue {
    const value = this.#stack.at(-1);
    if (value === undefined) throw this.#refuse('a value is missing');
    return value;
  }

  /** The values above the last mark, which is taken away with them. */
  #toMark(): PickleValue[] {
    const below = this.#below.pop();
    if (below === undefined) throw this.#refuse('a mark is missing');
    const above = this.#stack;
    this.#stack = below;
    return above;
  }

  #tuple(length: number): void {
    this.#push(this.#counted(new PickleTuple(this.#popped(length))));
  }

  #extend(kind: typeof PickleList | typeof PickleSet, items: readonly PickleValue[]): void {
    const target = this.#top();
    if (!(target instanceof kind)) throw this.#refuse('items of what has none');
    for (const item of items) target.items.push(item);
  }

  #setItems(items: readonly PickleValue[]): void {
    const target = this.#top();
    if (!(target instanceof PickleDict) || items.length % 2 !== 0) throw this.#refuse('items of what is no dict');
    for (let at = 0; at < items.length; at += 2) target.entries.set(items[at] as PickleValue, items[at + 1] as PickleValue);
  }

  #global(module: string, name: string): PickleGlobal {
    const path = `${module}.${name}`;
    const known = this.#globals.get(path);
    if (known !== undefined) return known;
    if (!this.options.globals.has(path))
      throw this.#refuse(`it names what does more than describe tensors, which is never run: ${path.slice(0, 200)}`, {
        global: path.slice(0, 200),
      });
    const global = new PickleGlobal(module, name);
    this.#globals.set(path, global);
    return global;
  }

  #call(global: PickleValue | undefined, args: PickleValue | undefined): void {
    if (!(global instanceof PickleGlobal) || !(args instanceof PickleTuple)) throw this.#refuse('a call of what is no global');
    // Some come with a function that makes the missing, which no reader asks for.
    const isDict = DICTS.has(global.path) && args.items.every((item) => item === null || item instanceof PickleGlobal);
    this.#push(this.#counted(isDict ? new PickleDict() : new PickleCall(global, args.items)));
  }

  #put(number: number): void {
    if (this.#memo.size >= MOST_OBJECTS) throw this.#refuse(`more than ${MOST_OBJECTS} objects`);
    this.#memo.set(number, this.#top());
  }

  #get(number: number): void {
    const value = this.#memo.get(number);
    if (value === undefined) throw this.#refuse(`nothing was put under number ${number}`);
    this.#push(value);
  }
}
