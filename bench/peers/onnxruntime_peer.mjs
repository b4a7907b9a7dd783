// Runs an ONNX model with onnxruntime-node: {"directory": where it is installed, "path": model}, and either "feeds": [{"name", "type", "shape",
// "rows"}], of random values, or "requests": a file of tensors "TURN.INPUT" and "TURN.scores", which the model has to give.
import { readFileSync } from 'node:fs';
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

/** The feeds of the requests, whose scores are checked: within 1e-5 relative. */
async function readRequests() {
  const file = readFileSync(task.requests);
  const start = 8 + Number(file.readBigUInt64LE(0));
  const turns = [];
  const scores = [];
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(JSON.parse(file.subarray(8, start)))) {
    const dot = name.indexOf('.');
    const turn = Number(name.slice(0, dot));
    const input = name.slice(dot + 1);
    const bytes = Uint8Array.from(file.subarray(start + data_offsets[0], start + data_offsets[1])).buffer;
    const [type, Values] = { F32: ['float32', Float32Array], I64: ['int64', BigInt64Array] }[dtype];
    if (input === 'scores') scores[turn] = new Values(bytes);
    else turns[turn] = { ...turns[turn], [input]: new ort.Tensor(type, new Values(bytes), shape) };
  }
  for (const [turn, feeds] of turns.entries()) {
    const { data } = (await session.run(feeds)).scores;
    for (const [at, score] of scores[turn].entries()) {
      if (Math.abs(data[at] - score) <= 1e-5 * Math.abs(score)) continue;
      console.log(JSON.stringify({ absent: `scores differ: request ${turn}, value ${at}, ${data[at]}, ours ${score}` }));
      process.exit();
    }
  }
  return turns;
}

const turns = task.requests === undefined ? Array.from({ length: TURNS }, feedsOf) : await readRequests();
console.log(JSON.stringify({ params: { version } }));
let turn = 0;
for await (const line of createInterface({ input: process.stdin })) {
  const started = performance.now();
  const until = started + Number(line);
  let calls = 0;
  let now = started;
  for (; now < until; now = performance.now(), calls++) await session.run(turns[turn++ % turns.length]);
  console.log(((now - started) * 1e6) / calls);
}
