import { join } from 'node:path';
import { type NativeTable, native } from '../../src/engine/native.js';
import { SEGMENT_FIELDS } from '../../src/engine/sparse-batch.js';
import { rowBytes as bytesPerRow } from '../../src/model/row-format.js';
import { bytesOf } from '../../src/predictor/scratch.js';
import { readSafetensorsHeader, writeSafetensors } from '../../src/tables/safetensors.js';
import { randomRows, SeededNumbers } from '../../src/workload/synthetic-values.js';
import { alternate, median, nanosecondsPerCall, type Row, relativeSpread, type Suite } from '../suite.js';
import { type PoolTrial, poolTrials } from './trials.js';

const FULL = { bytes: 2 * 2 ** 30, rounds: 9, roundMs: 250 };
const QUICK = { bytes: 64 * 2 ** 20, rounds: 3, roundMs: 30 };
/** Different ids in turn, so that no call finds the rows of the one before in the caches. */
const BATCHES = 16;

export const poolSuite: Suite = {
  name: 'pool',
  description: 'pooling embedding bags on one core, random ids over tables larger than the caches',
  columns: {
    'ns/lookup': 'median over rounds of the time per id',
    'GB/s': 'bytes of the rows read over that time',
    'of read': 'that rate over the rate at which this core reads memory in sequence, measured in the same run',
    spread: 'half the distance of the quartiles over the median',
  },
  async *run({ quick, dir }) {
    const { bytes, rounds, roundMs } = quick ? QUICK : FULL;
    // One file at a time in the page cache; every format is a view of the same bytes.
    const file = join(dir, 'rows.safetensors');
    const numbers = new SeededNumbers(1);
    const data = randomRows('fp16', bytes / 2, -3, numbers);
    await writeSafetensors(file, [{ name: 'rows', dtype: 'F16', shape: [bytes / 2, 1], data }], { align: 4096 });
    const start = (await readSafetensorsHeader(file)).tensors.get('rows')?.byteOffset ?? 0;
    const readRate = sequentialRate(bytes, roundMs);
    for (const trial of poolTrials) {
      const { call, lookups, rowBytes } = prepare(trial, file, start, bytes);
      const [samples = []] = alternate([call], rounds, roundMs);
      const ns = median(samples) / lookups;
      yield {
        trial: trial.name,
        'ns/lookup': ns,
        'GB/s': rowBytes / ns,
        'of read': rowBytes / ns / readRate,
        spread: relativeSpread(samples),
        description: trial.description,
      } satisfies Row;
    }
  },
};

/** GB/s at which one core reads a buffer beyond the caches in sequence: a search for a byte that is not there (memchr). */
function sequentialRate(bytes: number, roundMs: number): number {
  const size = Math.min(bytes, 2 ** 29);
  const buffer = Buffer.alloc(size, 1);
  const samples = Array.from({ length: 5 }, () => nanosecondsPerCall(() => void buffer.indexOf(2), roundMs));
  return size / median(samples);
}

function prepare(trial: PoolTrial, path: string, start: number, bytes: number): { call: () => void; lookups: number; rowBytes: number } {
  const { format, dim, tables: numTables, bagsPerTable, poolingFactor } = trial;
  const rowBytes = bytesPerRow(format, dim);
  const rows = Math.floor(bytes / numTables / rowBytes);
  const tables: NativeTable[] = Array.from({ length: numTables }, (_, table) => ({
    table,
    part: 0,
    parts: 1,
    path,
    byteOffset: start + table * rows * rowBytes,
    rows,
    dim,
    format,
    firstRow: 0,
    rowStep: 1,
  }));
  const engine = new native.SparseEngine(tables);
  const numbers = new SeededNumbers(2);
  const bags = numTables * bagsPerTable;
  const out = new Float32Array(bags * dim);
  const segments = new Uint32Array(tables.flatMap(({ table }) => [table, 0, 1, bagsPerTable, 0]));
  if (segments.length !== numTables * SEGMENT_FIELDS) throw new Error('segments do not have the fields of the engine');
  const batches = Array.from({ length: BATCHES }, () => {
    const offsets = new Uint32Array(bags + 1);
    for (let bag = 0; bag < bags; bag++) {
      const size = poolingFactor === 1 ? 1 : Math.floor(numbers.uniform() * (2 * poolingFactor + 1));
      offsets[bag + 1] = (offsets[bag] as number) + size;
    }
    const indices = BigInt64Array.from({ length: offsets[bags] as number }, () => BigInt(Math.floor(numbers.uniform() * rows)));
    return { indices, offsets };
  });
  const calls = batches.map(({ indices, offsets }) => ({
    segments: bytesOf(segments),
    indices: bytesOf(indices),
    offsets: bytesOf(offsets),
  }));
  let turn = 0;
  return {
    rowBytes,
    lookups: batches.reduce((sum, { indices }) => sum + indices.length, 0) / BATCHES,
    call: () => {
      const batch = calls[turn++ % BATCHES] as (typeof calls)[number];
      engine.poolSync(batch.segments, 8, batch.indices, batch.offsets, null, out);
    },
  };
}
