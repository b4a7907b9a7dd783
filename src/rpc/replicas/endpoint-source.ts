import type { TerabagError } from '../../errors.js';

/** Where the replicas of a shard listen, as far as is known now. */
export interface EndpointSource {
  /** tcp://ip:port or ipc://path, each a replica. */
  readonly addresses: readonly string[];
  /** Why nothing newer is known; null, or left out, when nothing is in the way. */
  readonly problem?: TerabagError | null;
  /** changed: is called after each change of the addresses. Once. */
  watch(changed: () => void): void;
  /** A replica was lost: look again soon. May be called at any rate. */
  refresh(): void;
  close(): void;
}

/** Addresses that stay. */
export const constantEndpoints = (addresses: readonly string[]): EndpointSource => ({
  addresses,
  watch: () => undefined,
  refresh: () => undefined,
  close: () => undefined,
});
