import { Option } from 'commander';
import type { SecurityOptions } from '../rpc/transport/security.js';

/** Keys of connections as commands take them. */
export interface SecurityFlags {
  readonly key?: string;
  readonly allow?: string;
  readonly shardKey?: string;
  readonly insecure?: boolean;
}

/** Of a shard. */
export const keyOption = (): Option =>
  new Option('--key <file>', 'key of the shard (terabag keygen): connections are encrypted, and --allow says whose are let in');
export const allowOption = (): Option =>
  new Option('--allow <file>', 'public keys of those who may connect, one a line; read anew when it changes');
export const insecureOption = (): Option => new Option('--insecure', 'listen where others can connect, without keys');

/** Of main. */
export const mainKeyOption = (): Option =>
  new Option('--key <file>', 'with --plan: key of this main shard (terabag keygen), for shards that have keys');
export const shardKeyOption = (): Option =>
  new Option('--shard-key <file>', 'with --plan: public keys that the shards may have, one a line');

/** Of these flags, to be spread into options; nothing when none is given. */
export function securityOf({ key, allow, shardKey, insecure }: SecurityFlags): { readonly security?: SecurityOptions } {
  const security = {
    ...(key !== undefined && { key }),
    ...(allow !== undefined && { allow }),
    ...(shardKey !== undefined && { shardKey }),
    ...(insecure !== undefined && { insecure }),
  };
  return Object.keys(security).length === 0 ? {} : { security };
}
