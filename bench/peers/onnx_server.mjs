// onnxruntime-node behind node:http: POST /score takes dense features and ids as bytes, and answers with those of the scores. With workers, as many
// processes (node:cluster) that share the port.
import cluster from 'node:cluster';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const task = JSON.parse(process.argv[2]);
const require = createRequire(join(task.directory, 'index.js'));

async function serve() {
  const ort = require('onnxruntime-node');
  const { onnx, threads, items, denseDim, bags, port } = task;
  const session = await ort.InferenceSession.create(onnx, {
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    graphOptimizationLevel: 'all',
    executionMode: 'sequential',
    enableCpuMemArena: true,
  });
  const answer = async (response, body) => {
    const ids = body.byteOffset + 4 * items * denseDim;
    const { scores } = await session.run({
      dense: new ort.Tensor('float32', new Float32Array(body.buffer, body.byteOffset, items * denseDim), [items, denseDim]),
      ids: new ort.Tensor('int64', new BigInt64Array(body.buffer, ids, bags * items), [bags, items]),
    });
    response.end(new Uint8Array(scores.data.buffer, scores.data.byteOffset, scores.data.byteLength));
  };
  const fail = (response, error) => {
    response.statusCode = 500;
    response.end(error.message);
  };
  createServer({ noDelay: true }, (request, response) => {
    const body = Buffer.allocUnsafeSlow(Number(request.headers['content-length'] ?? 0));
    let at = 0;
    request.on('data', (chunk) => {
      at += chunk.copy(body, at);
    });
    request.on('end', () => {
      if (request.method === 'GET') response.end();
      else answer(response, body).catch((error) => fail(response, error));
    });
  }).listen(port, '127.0.0.1');
}

if (cluster.isPrimary) {
  console.log(
    JSON.stringify({ url: `http://127.0.0.1:${task.port}`, params: { version: require('onnxruntime-node/package.json').version } }),
  );
  process.stdin.resume().once('end', () => process.exit());
}
if (cluster.isPrimary && task.workers > 1) for (let n = 0; n < task.workers; n++) cluster.fork();
else await serve();
