// Changed checkpoints against the readers of terabag import, in memory: npm run fuzz starts it for a part of its time; by hand
// npx tsx scripts/fuzz-checkpoints.ts [--seconds N] [--inputs N] [--seed N]. What is read has to lie inside its file; what is not read has to be refused by
// a TerabagError, in little time and memory. An input that fails is written to fuzz-checkpoint.bin.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { TerabagError } from '../src/errors.js';
import { type Checkpoint, dtypeBytes, refuser, spanOf } from '../src/import/checkpoint.js';
import { readPickle } from '../src/import/pickle.js';
import { readDistributed } from '../src/import/readers/distributed.js';
import { readNpz } from '../src/import/readers/npz.js';
import { readTorchSave } from '../src/import/readers/torch-save.js';
import { findTensors, TORCH_GLOBALS } from '../src/import/torch-pickle.js';
import { readEntry, readZip } from '../src/import/zip.js';
import { FilesInMemory } from '../test/reference/files-in-memory.js';

const { values } = parseArgs({
  options: { seconds: { type: 'string' }, inputs: { type: 'string' }, seed: { type: 'string', default: '1' } },
});
const given = (name: 'seconds' | 'inputs', otherwise: number): number => {
  const value = Number(values[name] ?? otherwise);
  if (value >= 1) return value;
  console.error(`--${name} has to be a number of 1 or more: ${values[name]}`);
  process.exit(2);
};
const inputs = given('inputs', Number.POSITIVE_INFINITY);
const seconds = given('seconds', values.inputs === undefined ? 60 : Number.POSITIVE_INFINITY);
/** An input that takes longer is one that hangs a command. */
const MOST_MS = 5000;
const MOST_HEAP_BYTES = 2 ** 30;
/** Of each input of a whole file so many of a pickle alone, which takes a hundredth of the time and has the most states. */
const PICKLES_A_FILE = 200;

let state = BigInt(values.seed) & 0xffffffffn;
/** A number below limit (xorshift32, Marsaglia 2003). */
function below(limit: number): number {
  let x = Number(state) || 1;
  x ^= x << 13;
  x ^= x >>> 17;
  x ^= x << 5;
  state = BigInt(x >>> 0);
  return (x >>> 0) % limit;
}

const FIXTURES = fileURLToPath(new URL('../test/fixtures/checkpoints', import.meta.url));
const fixture = (name: string): Buffer => readFileSync(join(FIXTURES, name));
const ofKind = (end: string): Buffer[] =>
  (readdirSync(FIXTURES, { recursive: true, encoding: 'utf8' }) as string[]).filter((name) => name.endsWith(end)).map(fixture);

async function pickleIn(zip: Buffer): Promise<Buffer> {
  const files = new FilesInMemory(new Map([['zip', zip]]));
  const read = await readZip(files, 'zip', { from: 0, bytes: zip.length });
  const entry = [...read.entries.values()].find(({ name }) => name.endsWith('/data.pkl'));
  if (entry === undefined) throw new Error('a fixture has no data.pkl');
  return (await readEntry(files, read, entry, zip.length)).data;
}

/** Values at which lengths, offsets and counts turn over. */
const EDGES = [0, 1, 2, 0x7f, 0x80, 0xff, 0xffff, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff];
const OPCODES = Buffer.from(
  '(.012BCGJKMNQRTUXabcehjqrstu])}\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96',
  'latin1',
);

function changed(original: Buffer, other: Buffer): Buffer {
  let bytes = Buffer.from(original);
  for (let changes = 1 + below(4); changes > 0; changes--) {
    const at = below(bytes.length);
    switch (below(7)) {
      case 0:
        bytes[at] = below(256);
        break;
      case 1:
        bytes[at] = (bytes[at] as number) ^ (1 << below(8));
        break;
      case 2:
        bytes[at] = OPCODES[below(OPCODES.length)] as number;
        break;
      case 3:
        if (at + 4 <= bytes.length) bytes.writeUInt32LE(EDGES[below(EDGES.length)] as number, at);
        break;
      case 4:
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(Math.min(bytes.length, at + 1 + below(16)))]);
        break;
      case 5: {
        const from = below(other.length);
        bytes = Buffer.concat([bytes.subarray(0, at), other.subarray(from, from + 1 + below(64)), bytes.subarray(at)]);
        break;
      }
      default: {
        const from = below(bytes.length);
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(from, from + 1 + below(32)), bytes.subarray(at)]);
      }
    }
    if (bytes.length === 0) return Buffer.of(0x80);
  }
  return bytes;
}

/** What is read has to lie inside its file. */
async function checkPieces({ tensors }: Checkpoint, files: FilesInMemory): Promise<void> {
  for (const { name, dtype, pieces } of tensors.values()) {
    for (const { path, byteOffset, sizes, strides } of await pieces()) {
      const end = byteOffset + spanOf(sizes, strides) * dtypeBytes(dtype);
      if (!(byteOffset >= 0 && end <= (await files.size(path)))) throw new Error(`tensor ${name} does not lie in its file: ends at ${end}`);
    }
  }
}

const alone = (bytes: Buffer): FilesInMemory => new FilesInMemory(new Map([['a', bytes]]));
const chunkFiles = new Map(['__0_0.distcp', '__1_0.distcp'].map((name) => [join('d', name), fixture(`dcp-2-ranks/${name}`)]));

const torchFiles = ofKind('.pt');
const wholePickles = await Promise.all(torchFiles.map(pickleIn));
/** The smallest: of as many kinds of parts, and read in a tenth of the time. */
const pickles = wholePickles.toSorted((a, b) => a.length - b.length).slice(0, 3);
const metadata = ofKind('.metadata');
const FILES: readonly { readonly originals: readonly Buffer[]; readonly run: (bytes: Buffer) => Promise<void> }[] = [
  {
    originals: torchFiles,
    run: async (bytes) => {
      const files = alone(bytes);
      await checkPieces(await readTorchSave(files, 'a'), files);
    },
  },
  {
    originals: metadata,
    run: async (bytes) => {
      const files = new FilesInMemory(new Map([...chunkFiles, [join('d', '.metadata'), bytes]]));
      await checkPieces(await readDistributed(files, 'd'), files);
    },
  },
  {
    originals: ofKind('.npz'),
    run: async (bytes) => {
      const files = alone(bytes);
      await checkPieces(await readNpz(files, await readZip(files, 'a', { from: 0, bytes: bytes.length })), files);
    },
  },
];

const refuse = refuser('a');
function runPickle(bytes: Buffer): void {
  findTensors(readPickle(bytes, { globals: TORCH_GLOBALS, refuse }), refuse);
}

// Nobody reads where a refusal was made, and to find out takes longer than to refuse.
Error.stackTraceLimit = 0;
let [run, refused] = [0, 0];
function failed(bytes: Buffer, error: unknown): never {
  writeFileSync('fuzz-checkpoint.bin', bytes);
  console.error(`input ${run} of seed ${values.seed} failed, it is in fuzz-checkpoint.bin`, error);
  process.exit(1);
}

function told(bytes: Buffer, error: unknown): void {
  if (!(error instanceof TerabagError) || error.code === 'internal') failed(bytes, error);
  refused++;
}

const pick = (originals: readonly Buffer[]): Buffer =>
  changed(originals[below(originals.length)] as Buffer, originals[below(originals.length)] as Buffer);

const startedAt = performance.now();
let reportedAt = startedAt;
while (run < inputs && performance.now() - startedAt < seconds * 1000) {
  for (let n = 0; n < PICKLES_A_FILE && run < inputs; n++, run++) {
    const bytes = pick(pickles);
    try {
      runPickle(bytes);
    } catch (error) {
      told(bytes, error);
    }
  }
  const { originals, run: read } = FILES[below(FILES.length)] as (typeof FILES)[number];
  const bytes = pick(originals);
  const before = performance.now();
  run++;
  try {
    await read(bytes);
  } catch (error) {
    told(bytes, error);
  }
  if (performance.now() - before > MOST_MS) failed(bytes, new Error(`it took ${performance.now() - before} ms`));
  if (performance.now() - reportedAt > 10_000) {
    reportedAt = performance.now();
    const { heapUsed } = process.memoryUsage();
    if (heapUsed > MOST_HEAP_BYTES) failed(bytes, new Error(`heap of ${heapUsed} bytes`));
    console.log(`${run} inputs, ${refused} refused, heap of ${heapUsed} bytes`);
  }
}
console.log(`${run} changed checkpoints, ${refused} refused, ${run - refused} read, none outside of its file`);
