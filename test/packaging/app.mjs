// What a project with the package does: scores a bundle's requests in this process and over two shards, and compares. node app.mjs BUNDLE
import { connect, launchCluster, makePlan, modelHash, openLocal, profileFromSpec, readModelSpec } from 'terabag';

const bundle = process.argv[2];
const spec = await readModelSpec(bundle);
const items = 3;
const bags = spec.nets.flatMap(({ layers }) => layers).filter(({ type }) => type === 'embedding_bag');
const request = {
  dense: Object.fromEntries(spec.dense.map(({ name, dim }) => [name, Float32Array.from({ length: items * dim }, (_, i) => (i % 7) / 8)])),
  sparse: Object.fromEntries(
    bags.map(({ name, table, weighted }) => {
      const { rows } = spec.tables.find((found) => found.name === table);
      const indices = Int32Array.from({ length: 2 * items }, (_, i) => (i * 13) % rows);
      return [name, { indices, offsets: Uint32Array.of(0, 2, 4, 6), ...(weighted && { weights: new Float32Array(2 * items).fill(0.5) }) }];
    }),
  ),
};
const plan = makePlan('capacity-balanced', spec, modelHash(spec), profileFromSpec(spec), { shards: 2 });
// An emulated Node.js starts shards by the words of its own emulator.
const command = process.env.TERABAG_EMULATOR?.split(' ') ?? [];
const host = { address: '127.0.0.1', command, adopt: () => undefined };
const hosts = { addressed: false, host: () => host, close: async () => undefined };
const cluster = await launchCluster(plan, { bundle, ephemeralPorts: true, hosts });
const [local, sharded] = [await openLocal(bundle, { deadlineMs: 10_000 }), await connect(cluster.plan, { deadlineMs: 10_000, bundle })];
const [expected, scores] = [
  (await local.predict(request, { deadlineMs: 60_000 })).scores,
  (await sharded.predict(request, { deadlineMs: 60_000 })).scores,
];
await Promise.all([local.close(), sharded.close()]);
await cluster.stop();
const same = Buffer.compare(Buffer.from(expected.buffer), Buffer.from(scores.buffer)) === 0;
console.log(JSON.stringify({ shards: cluster.shards.length, scores: [...scores].map((score) => Number(score.toFixed(4))), same }));
