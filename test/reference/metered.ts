import { RPC_COUNTERS, type RpcCounts } from '../../src/observe/counters.js';
import { type MeteredReplica, PredictorMeter } from '../../src/observe/predictor-meter.js';

/** A meter of a predictor with so many shards of two replicas, whose counts are made up: counter c of shard s is 100 s + c. */
export function meteredShards(shards: number, replicas: Partial<MeteredReplica> = {}): PredictorMeter {
  const meter = new PredictorMeter();
  meter.watch({
    version: { modelHash: 'ab'.repeat(32), planHash: 'cd'.repeat(32), epoch: 3 },
    ownStats: () => ({
      ...{ requests: 5, errors: 1, overloaded: 1, inFlight: 2, inFlightBytes: 4096, concurrencyLimit: 64, lingering: 0, degraded: 3 },
      ...{ nonFinite: 0, unseen: { 'a "table"\\': 4, clicks: 9 }, tableBytes: 2 ** 20, residentBytes: 2 ** 19 },
      ...{ hugePageBytes: 0, lockedBytes: 0 },
    }),
    shards: Array.from({ length: shards }, (_, s) => ({
      name: `shard-${s}`,
      ready: replicas.ready ?? true,
      counts: Object.fromEntries(Object.keys(RPC_COUNTERS).map((name, c) => [name, 100 * s + c])) as RpcCounts,
      replicas: () =>
        [0, 1].map((r) => ({
          ...{ endpoint: `tcp://shard-${s}-${r}:5000`, ready: true, ejected: false, inFlight: r },
          ...replicas,
        })),
    })),
  });
  return meter;
}

/** Lines of the text format by what stands before their value. */
export function seriesOf(body: string): Map<string, number> {
  const lines = body.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]));
}

/** Names of the families of a text, with their types. */
export const typesOf = (body: string): Map<string, string> =>
  new Map([...body.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name = '', type = '']) => [name, type]));

/** Pieces together. */
export async function textOf(pieces: AsyncIterable<Uint8Array>): Promise<string> {
  let text = '';
  for await (const piece of pieces) text += Buffer.from(piece).toString();
  return text;
}
