import type { Command } from 'commander';
import type { Precision } from '../engine/native.js';
import type { Residency } from '../engine/residency.js';
import type { Tracer } from '../observe/tracer.js';
import { readPlan } from '../plan/file/plan.js';
import type { RpcMode } from '../plan/predict/rpc-mode.js';
import { openLocal } from '../predictor/local.js';
import type { ShardFailurePolicy } from '../predictor/pipeline.js';
import type { Predictor } from '../predictor/predictor.js';
import { connect } from '../predictor/sharded.js';
import { withProgress } from './progress.js';
import { type SecurityFlags, securityOf } from './security-options.js';
import { warn } from './warn.js';

/** What commands that score requests say of the predictor. */
export interface PredictorCommandOptions extends SecurityFlags {
  readonly bundle: string;
  readonly plan?: string;
  readonly rpc: RpcMode;
  readonly batchItems?: number;
  readonly dedup?: boolean;
  readonly onShardFailure?: ShardFailurePolicy;
  readonly verify: 'full' | 'size';
  readonly residency: Residency;
  readonly precision: Precision;
}

/** How shards are asked says nothing without shards: such a command line is a mistake. */
export function refuseWithoutPlan(options: PredictorCommandOptions, command: Command): void {
  const { plan, rpc, batchItems, dedup, onShardFailure } = options;
  if (plan === undefined && onShardFailure !== undefined) command.error('error: --on-shard-failure needs the shards of a --plan');
  if (plan === undefined && (rpc === 'paper' || dedup)) command.error('error: --rpc paper and --dedup need the shards of a --plan');
  if (plan === undefined && securityOf(options).security !== undefined)
    command.error('error: --key and --shard-key need the shards of a --plan');
  if (batchItems !== undefined && rpc !== 'paper') command.error('error: --batch-items needs --rpc paper: coalesced requests are not cut');
}

/** All tables in this process, or the running shards of a plan. */
export function openPredictor(options: PredictorCommandOptions, tracer: Tracer | null = null): Promise<Predictor> {
  const { bundle, plan, verify, residency, precision, rpc, batchItems, dedup = false, onShardFailure = 'error' } = options;
  const traced = tracer === null ? {} : { trace: tracer };
  if (plan !== undefined)
    return withProgress('reading tables', 'bytes', async (onProgress) =>
      connect(await readPlan(plan), {
        ...{ bundle, precision, rpc, dedup, onShardFailure, verify, residency, onProgress, onWarning: warn },
        ...(batchItems !== undefined && { batchItems }),
        ...securityOf(options),
        ...traced,
      }),
    );
  return withProgress('reading tables', 'bytes', (onProgress) =>
    openLocal(bundle, { verify, residency, precision, onProgress, onWarning: warn, ...traced }),
  );
}
