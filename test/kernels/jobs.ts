import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { deserialize, serialize } from 'node:v8';
import type { NativeLayer, NativeTable } from '../../src/engine/native.js';
import type { Prefetch } from '../../src/engine/prefetch.js';
import { NO_ATTRIBUTES } from '../../src/model/ops.js';

export interface PoolJob {
  readonly segments: Uint8Array;
  readonly indexBytes: number;
  readonly indices: Uint8Array;
  readonly offsets: Uint8Array;
  readonly weights: Uint8Array | null;
  readonly outLength: number;
}
export interface NetJob {
  readonly inputDims: number[];
  /** All are vectors unless a test is about sequences. */
  readonly inputPositions?: number[];
  readonly numDense: number;
  readonly layers: NativeLayer[];
  readonly output: number;
  readonly precision?: 'fp32' | 'bf16' | 'int8';
  readonly runs: {
    items: number;
    perItem: Uint8Array;
    dense: Float32Array;
    pooled: Float32Array;
    lengths?: Uint32Array | null;
    /** Items of each group; perItem is 2 for inputs with a row for each. */
    groups?: Uint32Array | null;
    outLength: number;
    /** The stages that are run, in this order; 0 and 1 unless a test is about others. */
    stages?: number[];
  }[];
}
export interface Failure {
  readonly message: string;
  readonly status?: string;
  readonly segment?: number;
  readonly bag?: number;
  readonly position?: number;
  readonly value?: string;
  readonly limit?: string;
}
export interface Answer {
  readonly isa: string;
  readonly available: string[];
  readonly precisions: string[];
  readonly pools: { out?: Float32Array; error?: Failure }[];
  readonly unseen: { readonly table: number; readonly count: number }[];
  readonly nets: { outs?: Float32Array[]; error?: Failure }[];
}

/** Runs the jobs in a child process, on `threads` threads of the addon; a child that dies fails the test with what it said. */
export function runJobs(
  isa: string | null,
  jobs: { tables: NativeTable[]; pools?: PoolJob[]; nets?: NetJob[]; prefetch?: Prefetch },
  threads?: number,
): Answer {
  const { TERABAG_ISA: _, ...env } = process.env;
  const child = spawnSync(process.execPath, [fileURLToPath(new URL('run-jobs.mjs', import.meta.url))], {
    input: serialize({ pools: [], nets: [], ...jobs }),
    env: { ...env, ...(isa !== null && { TERABAG_ISA: isa }), ...(threads !== undefined && { TERABAG_THREADS: String(threads) }) },
    maxBuffer: 2 ** 30,
  });
  if (child.status !== 0) throw new Error(`child ended with ${child.status ?? child.signal}: ${child.stderr.toString()}`);
  return deserialize(child.stdout) as Answer;
}

/** Kernels that run here, as a child lists them. */
export const availableKernels = runJobs(null, { tables: [] }).available;

/** A layer whose other fields are those of a plain one. */
export const layer = (
  op: NativeLayer['op'],
  inputs: number[],
  dim: number,
  stage: number,
  more: Partial<NativeLayer> = {},
): NativeLayer => ({
  ...NO_ATTRIBUTES,
  op,
  inputs,
  dim,
  stage,
  ...more,
});

/** Numbers in [0, 1), the same for a seed (mulberry32). */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export const bytesOf = (array: ArrayBufferView): Uint8Array => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
