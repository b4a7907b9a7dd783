import { oneOf, TerabagError } from '../../errors.js';

export const RPC_MODES = ['coalesced', 'paper'] as const;

/**
 * coalesced: one RPC per request and shard, for all nets and items. paper: one per batch, net and shard, those of a net sent when the net before
 * has run, as the system of Lui et al. (ISPASS 2021) does; to compare with.
 * @useDeclaredType
 */
export type RpcMode = (typeof RPC_MODES)[number];

export interface RpcOptions {
  /** How the main shard asks. Default coalesced. */
  readonly rpc?: RpcMode;
  /** Items per batch, with rpc paper; default all of a request's. The batches of a request run side by side. */
  readonly batchItems?: number;
}

/** Refuses what these options cannot be, for callers whose types nobody checks (invalid_argument). */
export function checkRpcOptions({ rpc = 'coalesced', batchItems }: RpcOptions): void {
  oneOf('rpc', rpc, RPC_MODES);
  if (batchItems === undefined) return;
  const refused = (what: string): TerabagError => new TerabagError('invalid_argument', what, { field: 'batchItems' });
  if (!Number.isInteger(batchItems) || batchItems < 1)
    throw refused(`batchItems has to be an integer, 1 or more: ${typeof batchItems === 'number' ? batchItems : `a ${typeof batchItems}`}`);
  if (rpc !== 'paper') throw refused('batchItems needs rpc paper: coalesced requests are not cut');
}
