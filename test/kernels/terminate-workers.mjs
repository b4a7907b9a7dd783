// Starts workers that keep the addon busy and terminates them at odd moments; ends with "done".

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';

const path = process.env.TERABAG_ADDON ?? fileURLToPath(new URL('../../native/build/Release/terabag.node', import.meta.url));
const NUM_IDS = 200_000;

if (isMainThread) {
  const directory = mkdtempSync(join(tmpdir(), 'terabag-workers-'));
  const file = join(directory, 'table.bin');
  writeFileSync(file, new Uint8Array(1000 * 64 * 4));
  createRequire(import.meta.url)(path);
  for (let round = 0; round < 6; ++round) {
    const workers = Array.from({ length: 3 }, () => new Worker(new URL(import.meta.url), { workerData: file }));
    await Promise.all(
      workers.map(async (worker, n) => {
        await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
        await new Promise((resolve) => setTimeout(resolve, n * 7 + round));
        await worker.terminate();
      }),
    );
  }
  rmSync(directory, { recursive: true });
  console.log('done');
} else {
  const native = createRequire(import.meta.url)(path);
  const engine = new native.SparseEngine([
    { table: 0, part: 0, parts: 1, path: workerData, byteOffset: 0, rows: 1000, dim: 64, format: 'fp32', firstRow: 0, rowStep: 1 },
  ]);
  const bytes = (array) => new Uint8Array(array.buffer);
  const indices = bytes(Int32Array.from({ length: NUM_IDS }, (_, i) => i % 1000));
  const run = () =>
    engine.pool(bytes(new Uint32Array([0, 0, 1, 1, 0])), 4, indices, bytes(new Uint32Array([0, NUM_IDS])), null, new Float32Array(64));
  const keep = () => run().then(keep);
  for (let i = 0; i < 6; ++i) keep();
  parentPort.postMessage('busy');
}
