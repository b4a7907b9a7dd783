import type { Costs } from './costs.js';
import { denseWork } from './dense-work.js';
import { latencyUs, type Messages, type Round, type Timeline } from './latency.js';
import { MAIN_SHARD, type Plan } from './plan.js';
import type { PredictPlanOptions } from './predict-plan.js';
import type { Profile } from './profile.js';
import { type Asked, denseUs, mainAmounts, poolUs, shardAmounts, usOf } from './request-cost.js';
import { type AskedTable, addWork, askedTables, noWork, type PlannedModel, partWork, type Work } from './work.js';

export interface RequestShard {
  readonly lookups: number;
  readonly rpcs: number;
  /** From receiving to answering, all RPCs together. */
  readonly serviceUs: number;
  readonly cpuUs: number;
  readonly sentBytes: number;
  readonly receivedBytes: number;
}

/** One request: what each shard of the plan has of it, and its time. */
export interface PredictedRequest {
  readonly shards: readonly RequestShard[];
  readonly main: RequestShard;
  readonly timeline: Timeline;
  readonly latencyUs: number;
}

/** How a request is cut into RPCs, and what each shard is asked for it; main's own tables come last. */
interface AskedRequest {
  readonly batches: number;
  /** Of all batches. */
  readonly rounds: readonly (readonly Asked[])[];
  readonly shards: readonly Asked[];
  readonly own: Work;
}

export function askedOfRequest(
  planned: PlannedModel,
  plan: Plan,
  profile: Profile,
  costs: Costs,
  items: number,
  { rpc = 'coalesced', batchItems = Number.POSITIVE_INFINITY }: PredictPlanOptions = {},
): AskedRequest {
  const batches = rpc === 'paper' ? Math.max(1, Math.ceil(items / batchItems)) : 1;
  const asked = askedTables(planned, profile, costs, items / batches);
  const rounds = askedByRound(plan, planned, asked, rpc).map((round) => round.map((one) => times(one, batches)));
  const all = Array.from({ length: plan.shards.length + 1 }, (_, shard) => sum(rounds.map((round) => round[shard] as Asked)));
  return { batches, rounds, shards: all.slice(0, -1), own: (all.at(-1) as Asked).work };
}

/** A request of so many items, alone in the system. */
export function predictRequest(
  planned: PlannedModel,
  plan: Plan,
  profile: Profile,
  costs: Costs,
  items: number,
  options: PredictPlanOptions = {},
): PredictedRequest {
  const { batches, rounds, shards, own } = askedOfRequest(planned, plan, profile, costs, items, options);
  const dense = denseWork(planned.model, perItemBags(planned, profile)).map((stage) => batches * denseUs(costs, stage, items / batches));
  const mainUs = usOf(mainAmounts(shards, own), costs.main) + dense.reduce((total, us) => total + us, 0);
  const timed = rounds.map((round, r) => {
    const ownUs = poolUs(costs, (round.at(-1) as Asked).work);
    return roundOf(round.slice(0, -1), (r === 0 ? (dense[0] ?? 0) : 0) + ownUs, costs);
  });
  // What a round accounts for is not part of what main does in a row.
  const inRounds = timed.reduce((total, { messages }) => total + messages.fixedUs + messages.bytesUs, dense[0] ?? 0);
  const timeline = { serialUs: mainUs - inRounds, rounds: timed };
  return {
    shards: shards.map((asked) => {
      const us = poolUs(costs, asked.work);
      return { ...described(asked), serviceUs: us, cpuUs: us + usOf(shardAmounts(asked), costs.shard) };
    }),
    main: { ...described({ rpcs: 0, work: own }), serviceUs: 0, cpuUs: mainUs + poolUs(costs, own) },
    timeline,
    latencyUs: latencyUs(timeline, costs),
  };
}

const described = ({ rpcs, work: { lookups, sentBytes, receivedBytes } }: Asked) => ({ lookups, rpcs, sentBytes, receivedBytes });

function roundOf(shards: readonly Asked[], besideUs: number, costs: Costs): Round {
  const touched = shards.filter(({ rpcs }) => rpcs > 0);
  return {
    messages: messagesOf(mainAmounts(touched, noWork()), costs.main),
    besideUs,
    shards: touched.map((asked) => ({ messages: messagesOf({ askUs: 0, ...shardAmounts(asked) }, { askUs: 0, ...costs.shard }), poolUs: poolUs(costs, asked.work) })),
  };
}

type MessageCosts = Record<'askUs' | 'usPerRpc' | 'nsPerByteSent' | 'nsPerByteReceived', number>;

const messagesOf = (amounts: MessageCosts, costs: MessageCosts): Messages => ({
  fixedUs: amounts.askUs * costs.askUs + amounts.usPerRpc * costs.usPerRpc,
  bytesUs: amounts.nsPerByteSent * costs.nsPerByteSent + amounts.nsPerByteReceived * costs.nsPerByteReceived,
});

/** What each shard is asked in each round, main's own tables last: all at once, or net after net. */
function askedByRound({ shards, tables }: Plan, { spec, model }: PlannedModel, asked: readonly AskedTable[], rpc: 'coalesced' | 'paper'): Asked[][] {
  const rounds = rpc === 'coalesced' ? 1 : Math.max(1, ...model.bags.map(({ net }) => net + 1));
  const numberOf = new Map(shards.map(({ name }, shard) => [name, shard]));
  numberOf.set(MAIN_SHARD, shards.length);
  const partsOf = new Map(tables.map(({ table, parts }) => [table, parts]));
  const works = Array.from({ length: rounds }, () => Array.from({ length: shards.length + 1 }, noWork));
  for (const table of asked) {
    const parts = partsOf.get(spec.tables[table.table]?.name ?? '') ?? [];
    const work = partWork(table, parts.length);
    for (const part of parts) addWork(works[rpc === 'coalesced' ? 0 : table.net]?.[numberOf.get(part) ?? -1] ?? noWork(), work);
  }
  return works.map((round) => round.map((work) => ({ rpcs: Math.min(1, work.segments), work })));
}

/** Whether a bag layer has a bag per item: its table has more bags than those of the user. */
function perItemBags({ model }: PlannedModel, { tables }: Profile): boolean[] {
  const profiled = new Map(tables.map((table) => [table.table, table]));
  return model.bags.map(({ tableName }) => {
    const { bags, userBags } = profiled.get(tableName) ?? { bags: 1, userBags: 0 };
    return bags > userBags;
  });
}

const times = ({ rpcs, work }: Asked, batches: number): Asked => sum(new Array<Asked>(batches).fill({ rpcs, work }));

function sum(all: readonly Asked[]): Asked {
  const work: Work = noWork();
  for (const asked of all) addWork(work, asked.work);
  return { rpcs: all.reduce((rpcs, asked) => rpcs + asked.rpcs, 0), work };
}
