import { TerabagError } from '../errors.js';
import type { ModelSpec } from '../model/spec.js';
import { tableBytes } from './bytes.js';
import type { Plan } from './plan.js';

export interface CapacityOptions {
  readonly shards: number;
  /** One per shard; default loopback from port 7400 up. */
  readonly endpoints?: readonly string[];
  readonly memoryLimitBytes?: number;
}

const FIRST_PORT = 7400;

/** Equal bytes per shard: the largest table left goes to the emptiest shard (LPT: at most 4/3 of the best possible maximum; Graham 1969). */
export function planCapacityBalanced(spec: ModelSpec, hash: string, options: CapacityOptions): Plan {
  const { shards, memoryLimitBytes = Number.POSITIVE_INFINITY } = options;
  if (!Number.isInteger(shards) || shards < 1)
    throw new TerabagError('invalid_argument', `shards has to be an integer, 1 or more: ${shards}`, { field: 'shards' });
  const endpoints = options.endpoints ?? Array.from({ length: shards }, (_, shard) => `tcp://127.0.0.1:${FIRST_PORT + shard}`);
  if (endpoints.length !== shards)
    throw new TerabagError('invalid_argument', `one endpoint per shard: ${endpoints.length} endpoints, ${shards} shards`, {
      field: 'endpoints',
    });
  const used = new Array<number>(shards).fill(0);
  const home = new Map<string, string>();
  for (const table of [...spec.tables].sort((a, b) => tableBytes(b) - tableBytes(a) || (a.name < b.name ? -1 : 1))) {
    const shard = used.indexOf(Math.min(...used));
    const room = memoryLimitBytes - (used[shard] as number);
    if (tableBytes(table) > room) {
      throw new TerabagError(
        'does_not_fit',
        `table does not fit on any shard: ${table.name} needs ${tableBytes(table)} bytes, the emptiest shard has room for ${room}`,
        { table: table.name, need: tableBytes(table), room },
      );
    }
    used[shard] = (used[shard] as number) + tableBytes(table);
    home.set(table.name, `shard-${shard}`);
  }
  return {
    terabagPlan: 1,
    strategy: 'capacity-balanced',
    model: { name: spec.name, version: spec.version, hash },
    shards: endpoints.map((endpoint, shard) => ({ name: `shard-${shard}`, endpoints: [endpoint] })),
    tables: spec.tables.map(({ name }) => ({ table: name, parts: [home.get(name) as string] })),
  };
}
