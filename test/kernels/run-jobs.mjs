// Runs jobs from stdin on the addon with the kernels that TERABAG_ISA names; results to stdout. A process of its own, as the addon chooses its kernels at load.

import { readFileSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { deserialize, serialize } from 'node:v8';

const path = process.env.TERABAG_ADDON ?? fileURLToPath(new URL('../../native/build/Release/terabag.node', import.meta.url));
const native = createRequire(import.meta.url)(path);
const { tables, pools, nets, prefetch } = deserialize(readFileSync(0));

/** A copy that starts at an odd address. */
function unaligned(bytes) {
  if (bytes === null) return null;
  const copy = new Uint8Array(new ArrayBuffer(bytes.length + 1), 1);
  copy.set(bytes);
  return copy;
}

/** Floats of a result between two rows of others: a kernel that writes past its end is found out. */
const GUARD = 32;
function guarded(length) {
  return new Float32Array(new ArrayBuffer((length + 2 * GUARD) * 4), GUARD * 4, length);
}
function checkGuards(out) {
  const all = new Float32Array(out.buffer);
  if (all.subarray(0, GUARD).some((value) => value !== 7) || all.subarray(GUARD + out.length).some((value) => value !== 7)) {
    throw new Error('a kernel wrote outside its output');
  }
  return out.slice();
}

async function attempt(run) {
  try {
    return await run();
  } catch (error) {
    const { message, status, segment, bag, position, value, limit } = error;
    return { error: { message, status, segment, bag, position, value, limit } };
  }
}

const engine = new native.SparseEngine(tables, 'map', prefetch);
const poolResults = [];
for (const [n, job] of pools.entries()) {
  const out = guarded(job.outLength);
  new Float32Array(out.buffer).fill(7);
  const args = [unaligned(job.segments), job.indexBytes, unaligned(job.indices), unaligned(job.offsets), unaligned(job.weights), out];
  poolResults.push(
    await attempt(async () => {
      if (n % 2 === 0) engine.poolSync(...args);
      else await engine.pool(...args);
      return { out: checkGuards(out) };
    }),
  );
}
const netResults = [];
for (const { inputDims, inputPositions, numDense, layers, output, precision, runs } of nets) {
  netResults.push(
    await attempt(async () => {
      const net = new native.DenseNet(inputDims, numDense, layers, output, precision, inputPositions);
      const workspace = net.createWorkspace();
      const outs = [];
      for (const { items, perItem, dense, pooled, lengths = null, groups = null, outLength, stages = [0, 1] } of runs) {
        const out = guarded(outLength);
        new Float32Array(out.buffer).fill(7);
        for (const [n, stage] of stages.entries()) {
          const args = [
            workspace,
            stage,
            items,
            perItem,
            dense,
            stage === 0 ? null : pooled,
            stage === 0 ? null : lengths,
            out,
            null,
            0,
            groups,
          ];
          if (n % 2 === 0) net.runSync(...args);
          else await net.run(...args);
        }
        outs.push(checkGuards(out));
      }
      return { outs };
    }),
  );
}
const answer = serialize({
  isa: native.isa,
  available: native.availableKernels(),
  precisions: native.precisions(),
  pools: poolResults,
  unseen: engine.unseen(),
  nets: netResults,
});
for (let at = 0; at < answer.length; ) at += writeSync(1, answer, at);
