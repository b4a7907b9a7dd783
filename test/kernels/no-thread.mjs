// Pools on the addon's threads while the system gives no memory for their stacks, and again when it does. Prints what came of each.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const native = createRequire(import.meta.url)(fileURLToPath(new URL('../../native/build/Release/terabag.node', import.meta.url)));
const table = {
  table: 0,
  part: 0,
  parts: 1,
  path: process.argv[2],
  byteOffset: 0,
  rows: 2,
  dim: 2,
  format: 'fp32',
  firstRow: 0,
  rowStep: 1,
};
const engine = new native.SparseEngine([table], 'map');
const bytes = (array) => new Uint8Array(array.buffer);
const pool = () => {
  const out = new Float32Array(2);
  const segments = bytes(Uint32Array.of(0, 0, 1, 1, 0));
  return engine.pool(segments, 4, bytes(Int32Array.of(0, 1)), bytes(Uint32Array.of(0, 2)), null, out).then(() => [...out]);
};
const limit = (value) => execFileSync('prlimit', ['--pid', String(process.pid), `--as=${value}:unlimited`]);

const mapped = Number(/^VmSize:\s+(\d+) kB/m.exec(readFileSync('/proc/self/status', 'utf8'))[1]) * 1024;
limit(mapped + 6 * 2 ** 20); // A stack takes 8 MiB.
let refused;
try {
  await pool();
} catch ({ status, message }) {
  refused = { status, message };
}
limit('unlimited');
process.stdout.write(JSON.stringify({ refused, pooled: await pool() }));
