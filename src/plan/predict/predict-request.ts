import type { Costs } from './costs.js';
import { latencyUs, type Messages, type Round, type Timeline } from './latency.js';
import { type Asked, mainAmounts, poolUs, shardAmounts, usOf } from './request-cost.js';
import { addWork, noWork, type Work } from './work.js';

/** What one request asks: of each shard in each round, and of main's own tables. */
export interface AskedRequest {
  /** Requests are cut into so many batches, of which each has all rounds. */
  readonly batches: number;
  readonly rounds: readonly AskedRound[];
  /** us of the dense net for the whole request, by stage; stage 0 needs no embeddings. */
  readonly denseUs: readonly number[];
}

/** What one batch asks. */
export interface AskedRound {
  readonly shards: readonly Work[];
  readonly own: Work;
}

export interface RequestShard {
  readonly lookups: number;
  readonly rpcs: number;
  /** What the engine does, all RPCs together. */
  readonly serviceUs: number;
  readonly cpuUs: number;
  readonly sentBytes: number;
  readonly receivedBytes: number;
}

/** What each shard of the plan has of a request, and the request's time when it is alone in the system. */
export interface PredictedRequest {
  readonly shards: readonly RequestShard[];
  readonly main: RequestShard;
  readonly timeline: Timeline;
  readonly latencyUs: number;
  /** CPU of all processes. */
  readonly cpuUs: number;
}

export function predictRequest(request: AskedRequest, costs: Costs): PredictedRequest {
  const { shards, own } = totals(request);
  const denseUs = sumOf(request.denseUs);
  const mainUs = usOf(mainAmounts(shards, own), costs.main) + denseUs;
  const timeline = timelineOf(request, mainUs, costs);
  const predicted = shards.map((asked) => {
    const serviceUs = poolUs(costs, asked.work);
    return { ...described(asked), serviceUs, cpuUs: serviceUs + usOf(shardAmounts(asked, denseUs), costs.shard) };
  });
  const main = { ...described({ rpcs: 0, work: own }), serviceUs: poolUs(costs, own), cpuUs: mainUs + poolUs(costs, own) };
  const cpuUs = predicted.reduce((sum, shard) => sum + shard.cpuUs, main.cpuUs);
  return { shards: predicted, main, timeline, latencyUs: latencyUs(timeline, costs), cpuUs };
}

/** All rounds of all batches together. */
export function totals({ batches, rounds }: AskedRequest): { readonly shards: readonly Asked[]; readonly own: Work } {
  const own = noWork();
  for (const round of rounds) addWork(own, round.own, batches);
  const shards = (rounds[0]?.shards ?? []).map((_, shard) => {
    const asked = { rpcs: 0, work: noWork() };
    for (const round of rounds) {
      const work = round.shards[shard] as Work;
      addWork(asked.work, work, batches);
      asked.rpcs += batches * rpcsOf(work);
    }
    return asked;
  });
  return { shards, own };
}

/** A row-wise part that has ids in half of the requests is asked half an RPC a request. */
const rpcsOf = ({ segments }: Work): number => Math.min(1, segments);

const described = ({ rpcs, work: { lookups, sentBytes, receivedBytes } }: Asked) => ({ lookups, rpcs, sentBytes, receivedBytes });

/** The batches of a request run side by side, so that a round has those of all of them. */
function timelineOf({ batches, rounds, denseUs }: AskedRequest, mainUs: number, costs: Costs): Timeline {
  const [firstUs = 0] = denseUs;
  const timed = rounds.map(({ shards, own }, r): Round => {
    const asked = shards
      .filter(({ segments }) => segments > 0)
      .map((work) => ({ rpcs: batches * rpcsOf(work), work: times(work, batches) }));
    return {
      messages: messagesOf(mainAmounts(asked, noWork()), costs.main, ['askUs', 'usPerRpc']),
      besideUs: (r === 0 ? firstUs : 0) + poolUs(costs, times(own, batches)),
      shards: asked.map((one) => ({
        messages: messagesOf(shardAmounts(one, sumOf(denseUs)), costs.shard, ['usPerRpc', 'usPerColdRpc']),
        poolUs: poolUs(costs, one.work),
      })),
    };
  });
  // What a round accounts for is not part of what main does in a row.
  const inRounds = timed.reduce((sum, { messages }) => sum + messages.fixedUs + messages.bytesUs, firstUs);
  return { serialUs: Math.max(0, mainUs - inRounds), rounds: timed };
}

type BytesOf = Record<'nsPerByteSent' | 'nsPerByteReceived', number>;

/** fixed: what of these costs does not grow with the bytes. */
function messagesOf<K extends string>(
  amounts: BytesOf & Record<K, number>,
  costs: BytesOf & Record<K, number>,
  fixed: readonly K[],
): Messages {
  return {
    fixedUs: sumOf(fixed.map((key) => amounts[key] * costs[key])),
    bytesUs: amounts.nsPerByteSent * costs.nsPerByteSent + amounts.nsPerByteReceived * costs.nsPerByteReceived,
  };
}

const sumOf = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

function times(work: Work, count: number): Work {
  if (count === 1) return work;
  const sum = noWork();
  addWork(sum, work, count);
  return sum;
}
