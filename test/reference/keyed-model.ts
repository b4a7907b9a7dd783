import { join } from 'node:path';
import { writeKeyIndex } from '../../src/engine/key-index.js';
import { writeModelJson } from '../../src/model/bundle.js';
import type { ModelSpec } from '../../src/model/spec.js';
import type { BagsInput, PredictRequest } from '../../src/predictor/predictor.js';
import { mix64 } from './key-index.js';
import { writeRandomModel } from './random-model.js';

export interface KeyedModel {
  /** As it was, and with keys. */
  readonly plain: ModelSpec;
  readonly keyed: ModelSpec;
  /** By name of the table: the key of each row, with a sign; null where ids stay rows. */
  readonly keys: ReadonlyMap<string, BigInt64Array | null>;
}

const EDGES = [0n, -1n, 2n ** 63n - 1n, -(2n ** 63n), 7n];

/** Random model of the seed in two directories, the second of which has keys for most tables: the same rows. */
export async function writeKeyedModel(plainDir: string, keyedDir: string, seed: number): Promise<KeyedModel> {
  const plain = await writeRandomModel(plainDir, seed);
  await writeRandomModel(keyedDir, seed);
  const keys = new Map<string, BigInt64Array | null>();
  const files = { ...plain.files };
  const tables: ModelSpec['tables'] = [];
  for (const [t, table] of plain.tables.entries()) {
    if ((t + seed) % 4 === 3) {
      keys.set(table.name, null);
      tables.push(table);
      continue;
    }
    const own = BigInt64Array.from(
      { length: table.rows },
      (_, row) => EDGES[row] ?? BigInt.asIntN(64, mix64(BigInt(seed * 1000 + t) * 100_000n + BigInt(row))),
    );
    const file = `tables/${table.name}.keys.safetensors`;
    const { tensor, bytes, crc32 } = await writeKeyIndex(join(keyedDir, file), { rows: table.rows, keys: [own] });
    files[file] = { bytes, crc32 };
    keys.set(table.name, own);
    tables.push({ ...table, keys: { file, tensor } });
  }
  const keyed = { ...plain, tables, files };
  await writeModelJson(keyedDir, keyed);
  return { plain, keyed, keys };
}

/** How ids of keyed tables are given. */
export type GivenAs = 'bigint' | 'unsigned' | 'string' | 'array';

/** A request for the plain model, as the keyed one gets it. */
export function keyedRequest({ plain, keys }: KeyedModel, request: PredictRequest, as: GivenAs): PredictRequest {
  const tableOf = new Map(
    plain.nets
      .flatMap(({ layers }) => layers)
      .flatMap((layer) => (layer.type === 'embedding_bag' ? [[layer.name, layer.table] as const] : [])),
  );
  const give = (key: bigint): number | bigint | string => {
    if (as === 'string') return String(key);
    return as === 'unsigned' ? BigInt.asUintN(64, key) : key > -(2n ** 53n) && key < 2n ** 53n ? Number(key) : key;
  };
  const sparse = Object.entries(request.sparse).map(([layer, bags]): [string, BagsInput] => {
    const own = keys.get(tableOf.get(layer) ?? '') ?? null;
    if (own === null) return [layer, bags];
    const found = Array.from(bags.indices, (row) => own[Number(row)] as bigint);
    return [layer, { ...bags, indices: as === 'array' ? BigInt64Array.from(found) : found.map(give) }];
  });
  return { ...request, sparse: Object.fromEntries(sparse) };
}
