// The report of docs/perf-analyzer.md: npm run test:clients installs perf_analyzer, then npx tsx scripts/perf-analyzer.ts [--seconds N] prints the
// tables. A served model on two shards of this machine, over HTTP and over gRPC, at several concurrencies and request rates.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { cpus, homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { readModelSpec } from '../src/index.js';
import { demoShape } from '../src/lab/generate/model-shape.js';
import { RequestGenerator } from '../src/lab/generate/request-generator.js';
import { requestShape } from '../src/lab/generate/request-shape.js';
import { writeSyntheticBundle } from '../src/lab/generate/synthetic-bundle.js';
import { tensorsIn } from '../test/integration/serve/client-requests.js';
import { inputData, loadResults, perfAnalyzer } from '../test/integration/serve/perf-analyzer.js';
import { launchShards, startReady } from '../test/integration/serve/served-cluster.js';

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '5' } } });
const seconds = Number(values.seconds);
const clients = process.env['TERABAG_CLIENTS'] ?? join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'terabag', 'clients');
const TABLE_BYTES = 2 ** 28;
const ITEMS = 64;
const REQUESTS = 64;
const LOADS = [
  { what: 'Concurrency', option: '--concurrency-range', loads: [1, 2, 4, 8, 16] },
  { what: 'Requests a second', option: '--request-rate-range', loads: [50, 100, 200, 400] },
];

const dir = await mkdtemp(join(tmpdir(), 'terabag-perf-analyzer-'));
const shape = demoShape(TABLE_BYTES);
const bundle = join(dir, 'model');
await writeSyntheticBundle(bundle, shape);
const shards = await launchShards(bundle);
const served = await startReady(`demo=${bundle}`, '--plan', shards.plan, '--residency', 'hugepages', '--deadline', '10s');
try {
  const dims = Object.fromEntries((await readModelSpec(bundle)).dense.map(({ name, dim }) => [name, dim]));
  const generator = new RequestGenerator(requestShape(shape), 14);
  const data = join(dir, 'input-data.json');
  await writeFile(data, inputData(Array.from({ length: REQUESTS }, () => tensorsIn(generator.next(ITEMS), dims))));
  console.log(`${shape.description}; ${ITEMS} items a request; ${cpus().length} cores (${cpus()[0]?.model ?? 'unknown'})`);
  for (const { what, option, loads } of LOADS)
    for (const protocol of ['http', 'grpc']) {
      console.log(
        `\n| ${what}, ${protocol === 'http' ? 'HTTP' : 'gRPC'} | answered a second | P50, ms | P99, ms |\n| ---: | ---: | ---: | ---: |`,
      );
      for (const load of loads) {
        const report = join(dir, 'report.csv');
        const address = protocol === 'http' ? new URL(served.url).host : (served.grpc ?? '');
        // It gives up at the first request that is refused, as beyond what the server can do.
        const failure = await perfAnalyzer(clients, [
          ...['-m', 'demo', '-u', address, '-i', protocol, '--input-data', data, option, String(load), '-f', report],
          ...['--measurement-interval', String(seconds * 1000), '--stability-percentage', '50', '--max-trials', '10', '--async'],
        ]).then(
          () => null,
          ({ stderr = '' }: { stderr?: string }) => /had error: (.*)/.exec(stderr)?.[1] ?? stderr.trim(),
        );
        const [result] = failure === null ? loadResults(report) : [];
        if (result === undefined) {
          console.log(`| ${load} | ${failure} | | |`);
          continue;
        }
        const { perSecond, p50Us, p99Us } = result;
        console.log(`| ${load} | ${perSecond.toFixed(0)} | ${(p50Us / 1000).toFixed(2)} | ${(p99Us / 1000).toFixed(2)} |`);
        await rm(report);
      }
    }
} finally {
  await served.end();
  await shards.cluster.stop();
  await rm(dir, { recursive: true });
}
