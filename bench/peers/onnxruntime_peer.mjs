// Runs an ONNX model with onnxruntime-node: {"directory": where it is installed, "path": model, "feeds": [{"name", "type", "shape", "rows"}], "batch"}.
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const task = JSON.parse(process.argv[2]);
const require = createRequire(join(task.directory, 'index.js'));
const ort = require('onnxruntime-node');
const { version } = require('onnxruntime-node/package.json');
const session = await ort.InferenceSession.create(task.path, {
  intraOpNumThreads: 1,
  interOpNumThreads: 1,
  graphOptimizationLevel: 'all',
  executionMode: 'sequential',
  enableCpuMemArena: true,
});
const TURNS = 16;
const feedsOf = () =>
  Object.fromEntries(
    task.feeds.map(({ name, type, shape, rows }) => {
      const length = shape.reduce((product, count) => product * count, 1);
      const data =
        type === 'int64'
          ? BigInt64Array.from({ length }, () => BigInt(Math.floor(Math.random() * rows)))
          : Float32Array.from({ length }, () => Math.random() - 0.5);
      return [name, new ort.Tensor(type, data, shape)];
    }),
  );
const turns = Array.from({ length: TURNS }, feedsOf);
console.log(JSON.stringify({ params: { version } }));
let turn = 0;
for await (const line of createInterface({ input: process.stdin })) {
  const started = performance.now();
  const until = started + Number(line);
  let calls = 0;
  let now = started;
  for (; now < until; now = performance.now(), calls++) await session.run(turns[turn++ % TURNS]);
  console.log(((now - started) * 1e6) / calls);
}
