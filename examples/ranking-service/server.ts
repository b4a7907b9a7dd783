import { createServer } from 'node:http';
import { json } from 'node:stream/consumers';
import { parseArgs } from 'node:util';
import { connect, openLocal, readPlan, requestFromJson, TerabagError } from 'terabag';

const text = { type: 'string' } as const;
const { bundle = './model', plan, port = '8080' } = parseArgs({ options: { bundle: text, plan: text, port: text } }).values;
const predictor = plan === undefined ? await openLocal(bundle) : await connect(await readPlan(plan), { bundle });
const STATUS = new Map(Object.entries({ overloaded: 503, shard_unavailable: 503, deadline_exceeded: 504 }));
for (const code of ['invalid_argument', 'index_out_of_range', 'bad_offsets']) STATUS.set(code, 400);
const MAX_BODY = 16 * 1024 * 1024;

const server = createServer(async (request, response) => {
  const gone = new AbortController();
  response.once('close', () => gone.abort());
  try {
    if (!(Number(request.headers['content-length']) <= MAX_BODY)) throw new RangeError('Content-Length is missing or too large');
    const { candidates, features } = (await json(request)) as { candidates: string[]; features: unknown };
    const options = { deadlineMs: 50, signal: gone.signal };
    const { scores, scoreDim } = await predictor.predict({ ...requestFromJson(features), items: candidates.length }, options);
    const ranking = candidates.map((candidate, item) => ({ candidate, score: scores[item * scoreDim] as number }));
    response.shouldKeepAlive = server.listening;
    response.end(JSON.stringify({ ranking: ranking.sort((a, b) => b.score - a.score) }));
  } catch (error) {
    const { code, message, details } = TerabagError.from(error, 'invalid_argument');
    response.writeHead(STATUS.get(code) ?? 500).end(JSON.stringify({ code, message, details }));
  }
}).listen(Number(port), '127.0.0.1', () => console.log(`ranking at ${JSON.stringify(server.address())}`));
process.once('SIGTERM', () => {
  server.close(() => predictor.close());
  setTimeout(() => server.closeAllConnections(), 1000).unref();
});
