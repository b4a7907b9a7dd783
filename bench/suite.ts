import { native } from '../src/engine/native.js';

/**
 * Who is measured beside us; limit is what the machine gives a plain loop, anonymous-hugepages our own engine on copied tables, plain-rows the same
 * with ids that are rows, unseen-policy the same where ids that a table does not have are zeros, of which there are none; ts-api the predictor itself
 * in place of its endpoint, variant the endpoint with another option. fastapi, kserve and triton serve TorchScript, onnxruntime may be served, too.
 */
export type Peer =
  | 'fbgemm'
  | 'torch'
  | 'torchrec'
  | 'onnxruntime'
  | 'onednn'
  | 'openblas'
  | 'absl'
  | 'absl+fbgemm'
  | 'limit'
  | 'anonymous-hugepages'
  | 'plain-rows'
  | 'prom-client'
  | 'unseen-policy'
  | 'fastapi'
  | 'kserve'
  | 'triton'
  | 'ts-api'
  | 'variant';

/** One figure, as it is written to the JSON lines. */
export interface Line {
  readonly suite: string;
  readonly case: string;
  readonly params: Readonly<Record<string, string | number | boolean>>;
  readonly metric: string;
  readonly unit: string;
  /** Median over rounds; null when the peer could not run, and note says why. */
  readonly value: number | null;
  readonly peer: Peer | null;
  /** Median over rounds of the peer's time over ours in the same round; null on our own lines. */
  readonly ratio: number | null;
  /** Half the distance of the quartiles of value, relative to it. */
  readonly spread: number | null;
  readonly isa: string;
  readonly threads: number;
  readonly residency: string;
  readonly note?: string;
}

export interface SuiteOptions {
  /** Smaller data and fewer rounds: shows that it works, not what it reaches. */
  readonly quick: boolean;
  readonly peers: boolean;
  /** At least 7 unless quick. */
  readonly rounds: number;
  /** Only cases whose name matches. */
  readonly wanted: RegExp;
  /** A directory of its own for files, removed afterwards. */
  readonly dir: string;
}

export interface Suite {
  readonly name: string;
  readonly description: string;
  run(options: SuiteOptions): AsyncGenerator<Line>;
}

/** Something that takes part in a case, round after round. */
export interface Contender {
  readonly peer: Peer | null;
  readonly params?: Readonly<Record<string, string | number | boolean>>;
  readonly residency?: string;
  /** Units of work done over and over for about so long: ns per unit. */
  round(ms: number): number | Promise<number>;
  close?(): void | Promise<void>;
}

/** A peer that cannot run. */
export interface Absent {
  readonly peer: Peer;
  readonly params?: Contender['params'];
  readonly note: string;
}

/** A limit that tells ns for one GFLOP, as ns for so many. */
export function perWork(contender: Contender | Absent, gflop: number): Contender | Absent {
  if ('note' in contender) return contender;
  const { peer, params } = contender as Contender;
  return { peer, ...(params && { params }), round: async (ms) => (await contender.round(ms)) * gflop, close: () => contender.close?.() };
}

export function median(samples: readonly number[]): number {
  const ascending = [...samples].sort((a, b) => a - b);
  const middle = ascending.length >> 1;
  return ascending.length % 2 === 1
    ? (ascending[middle] as number)
    : ((ascending[middle - 1] as number) + (ascending[middle] as number)) / 2;
}

/** Half the distance of the quartiles. */
export function quartileSpread(samples: readonly number[]): number {
  const ascending = [...samples].sort((a, b) => a - b);
  const quartile = (q: number): number => ascending[Math.round(q * (ascending.length - 1))] as number;
  return (quartile(0.75) - quartile(0.25)) / 2;
}

/** Nanoseconds of one call, over as many as fit into the time. */
export async function nanosecondsPerCall(call: () => unknown, ms: number): Promise<number> {
  let calls = 0;
  const startedAt = process.hrtime.bigint();
  const until = startedAt + BigInt(Math.round(ms * 1e6));
  let now = startedAt;
  while (now < until) {
    const pending = call();
    if (pending instanceof Promise) await pending;
    calls++;
    now = process.hrtime.bigint();
  }
  return Number(now - startedAt) / calls;
}

export interface Case {
  readonly suite: string;
  readonly name: string;
  readonly params: Line['params'];
  readonly metric: string;
  readonly unit: string;
  /** Converts ns of one unit of work to the unit above. */
  readonly fromNs: (ns: number) => number;
  readonly roundMs: number;
}

/** Rounds of all contenders in turn, ours first, so that a slow phase of the machine falls on each; the first round warms up. */
export async function measure(of: Case, contenders: readonly (Contender | Absent)[], rounds: number): Promise<Line[]> {
  const able = contenders.filter((contender): contender is Contender => 'round' in contender);
  const samples = able.map((): number[] => []);
  try {
    for (let round = -1; round < rounds; round++) {
      for (const [index, contender] of able.entries()) {
        const ns = await contender.round(of.roundMs);
        if (round >= 0) samples[index]?.push(ns);
      }
    }
  } finally {
    for (const contender of able) await contender.close?.();
  }
  const ours = samples[able.findIndex(({ peer }) => peer === null)] as number[];
  const base = { suite: of.suite, case: of.name, metric: of.metric, unit: of.unit, isa: native.isa, threads: 1 };
  return contenders.map((contender): Line => {
    const params = { ...of.params, ...contender.params };
    if (!('round' in contender))
      return { ...base, params, value: null, peer: contender.peer, ratio: null, spread: null, residency: 'none', note: contender.note };
    const own = samples[able.indexOf(contender)] as number[];
    const ratio = contender.peer === null ? null : median(own.map((ns, round) => ns / (ours[round] as number)));
    const { peer, residency = peer === null ? 'populate' : 'none' } = contender;
    return { ...base, params, value: of.fromNs(median(own)), peer, ratio, spread: quartileSpread(own) / median(own), residency };
  });
}
