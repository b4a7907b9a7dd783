import { type Load, type LoadRun, mergeRuns } from '../load/load-run.js';
import { runOpenLoopLoad } from '../load/open-loop-load.js';
import { runSerialLoad } from '../load/serial-load.js';
import type { Experiment } from './experiment.js';
import type { Ready, RpcCounts, Stand } from './stand.js';

/** What a setup did when it was its turn. */
export interface Turn {
  readonly run: LoadRun;
  /** Counts over the measured requests; null when nothing is called. */
  readonly rpcs: RpcCounts | null;
}

/** Measures one setup in one round. */
export type TakeTurn = (stand: Stand, round: number) => Promise<Turn>;

const LONGEST_MS = 60_000;
const DEADLINE_MS = 10_000;

/** All requests, one at a time. */
export const serialTurn =
  ({ requests, scale, signal }: Experiment): TakeTurn =>
  (stand) =>
    stand.use(async (ready) => {
      const load = loadOf(ready, requests, signal);
      await runSerialLoad({ ...load, warmUpMs: 0, durationMs: scale.warmUpMs });
      return counted(stand, ready, () => runSerialLoad({ ...load, warmUpMs: 0, durationMs: LONGEST_MS, mostRequests: requests.length }));
    });

/** At a steady rate; arrivals are those of the round, the same for all setups. */
export const openLoopTurn =
  ({ requests, scale, signal, qps, seed }: Experiment): TakeTurn =>
  (stand, round) =>
    stand.use(async (ready) => {
      const load = loadOf(ready, requests, signal);
      await runSerialLoad({ ...load, warmUpMs: 0, durationMs: scale.warmUpMs });
      const arrivals = { process: 'poisson', qps, seed: seed + round } as const;
      return counted(stand, ready, () => runOpenLoopLoad({ ...load, arrivals, warmUpMs: 0, durationMs: scale.openLoopTurnMs }));
    });

export const loadOf = ({ predictor, shardCpu }: Ready, requests: Load['requests'], signal: AbortSignal): Load => ({
  ...{ predictor, requests, signal, deadlineMs: DEADLINE_MS },
  ...(shardCpu && { shardCpu }),
});

/** What is measured, is traced and its RPCs are counted. */
async function counted({ tracer }: Stand, ready: Ready, measure: () => Promise<LoadRun>): Promise<Turn> {
  const before = ready.counts();
  if (tracer !== null) tracer.enabled = true;
  const run = await measure().finally(() => {
    if (tracer !== null) tracer.enabled = false;
  });
  const after = ready.counts();
  const since = (name: keyof RpcCounts): number => (after?.[name] ?? 0) - (before?.[name] ?? 0);
  const rpcs = after === null ? null : { rpcs: since('rpcs'), bytesSent: since('bytesSent'), bytesReceived: since('bytesReceived') };
  return { run, rpcs };
}

/** All rounds of one setup together. */
export function mergeTurns(turns: readonly Turn[]): Turn {
  const sum = (name: keyof RpcCounts): number => turns.reduce((total, { rpcs }) => total + (rpcs?.[name] ?? 0), 0);
  return {
    run: mergeRuns(turns.map(({ run }) => run)),
    rpcs: turns.some(({ rpcs }) => rpcs === null)
      ? null
      : { rpcs: sum('rpcs'), bytesSent: sum('bytesSent'), bytesReceived: sum('bytesReceived') },
  };
}

/**
 * Rounds in which every stand has a turn. Every second round goes backwards, so that none always follows the same one, and what drifts meanwhile
 * falls on all alike. Ends early, between turns, when the signal says so; the last round may then be short.
 */
export async function takeTurns(
  stands: readonly Stand[],
  { rounds, signal, take, onTurn }: { rounds: number; signal: AbortSignal; take: TakeTurn; onTurn: () => void },
): Promise<Turn[][]> {
  const turns = stands.map((): Turn[] => []);
  for (let round = 0; round < rounds; round++) {
    const order = stands.map((stand, s) => ({ stand, s }));
    for (const { stand, s } of round % 2 === 0 ? order : order.reverse()) {
      if (signal.aborted) return turns;
      turns[s]?.push(await take(stand, round));
      onTurn();
    }
  }
  return turns;
}
