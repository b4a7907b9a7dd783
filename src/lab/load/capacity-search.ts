import { TerabagError } from '../../errors.js';
import { HIGHEST_QPS } from './arrivals.js';
import { answeredQps, failures, type LoadRun, latencyAt, mergeRuns } from './load-run.js';
import { type OpenLoopOptions, runOpenLoopLoad } from './open-loop-load.js';

/** The service level to hold: that the share of all requests is answered within so many ms; a failed one is not. */
export interface LatencyBound {
  readonly quantile: number;
  readonly ms: number;
}

/** The load at one rate. */
export interface Probe {
  readonly qps: number;
  readonly meetsBound: boolean;
  readonly run: LoadRun;
}

export interface Capacity {
  /** The highest rate that was seen to meet the bound; null when none did. */
  readonly qps: number | null;
  /** What kept it from being higher: the bound, the generator (its runs were invalid), or the end of the search. */
  readonly limitedBy: 'bound' | 'generator' | 'search';
  /** All rates that were tried, ascending: the knee curve. */
  readonly probes: readonly Probe[];
}

export interface CapacityOptions extends Omit<OpenLoopOptions, 'arrivals'> {
  readonly bound: LatencyBound;
  readonly process: 'poisson' | 'constant';
  readonly seed: number;
  /** Where the search begins: firstRate. */
  readonly firstQps: number;
  /** Runs per rate, each with a seed of its own; merged. */
  readonly repeats: number;
  /** Ends when the rates that meet and miss the bound are this close; default 0.05. */
  readonly tolerance?: number;
  /** Runs take longer at low rates, so that there are enough for the quantile, but at most a minute, or durationMs if that is more; default 300. */
  readonly fewestRequests?: number;
  readonly onProbe?: (probe: Probe) => void;
}

const DEFAULT_TOLERANCE = 0.05;
const DEFAULT_FEWEST_REQUESTS = 300;
const LONGEST_RUN_MS = 60_000;
const LOWEST_QPS = 0.1;
/** Share of the first rate, which is near what one request after the other reaches: below, requests hardly ever meet, and lower rates are no faster. */
const LEAST_OF_FIRST = 1 / 16;
const FIRST_SHARE = 0.5;
/** An invalid run is repeated: a burst of the machine's other work, or code that was not compiled yet, may have been to blame. */
const TRIES = 3;

/** A rate that a search may begin at, given what a request takes when it is alone: half of what one after the other reaches. */
export const firstRate = (serialMs: number): number => (FIRST_SHARE * 1000) / serialMs;

/**
 * The highest rate of open-loop load at which the bound holds, as DeepRecSys (Gupta et al., ISCA 2020) measures servers: rates double until one misses the
 * bound (or halve until one meets it), then the gap is bisected geometrically.
 */
export async function findMaxQps(options: CapacityOptions): Promise<Capacity> {
  const probes: Probe[] = [];
  const meets = async (qps: number): Promise<boolean> => {
    const probe = await probeAt(qps, options);
    // Cut short, it says nothing.
    if (options.signal?.aborted) return false;
    probes.push(probe);
    options.onProbe?.(probe);
    return probe.meetsBound;
  };
  const { best, ended } = await searchHighest(meets, options.firstQps, options.tolerance ?? DEFAULT_TOLERANCE, {
    lowestQps: options.firstQps * LEAST_OF_FIRST,
    ...(options.signal && { signal: options.signal }),
  });
  probes.sort((a, b) => a.qps - b.qps);
  const above = probes.find(({ qps, meetsBound }) => !meetsBound && qps > (best ?? 0));
  return { qps: best, limitedBy: !ended ? 'search' : above && above.run.invalid.length > 0 ? 'generator' : 'bound', probes };
}

async function probeAt(qps: number, options: CapacityOptions): Promise<Probe> {
  const { bound, repeats, seed, process, fewestRequests = DEFAULT_FEWEST_REQUESTS, signal } = options;
  const enoughMs = (1000 * fewestRequests) / qps / repeats;
  const durationMs = Math.max(options.durationMs, Math.min(enoughMs, LONGEST_RUN_MS));
  const once = (repeat: number): Promise<LoadRun> =>
    runOpenLoopLoad({ ...options, durationMs, arrivals: { process, qps, seed: seed + repeat } });
  const runs: LoadRun[] = [];
  for (let repeat = 0; repeat < repeats && !signal?.aborted; repeat++) {
    let run = await once(repeat);
    for (let tries = 1; tries < TRIES && run.invalid.length > 0 && !signal?.aborted; tries++) run = await once(repeat);
    runs.push(run);
  }
  const run = mergeRuns(runs);
  const latency = latencyAt(run, bound.quantile);
  return { qps, run, meetsBound: run.invalid.length === 0 && latency !== null && latency <= bound.ms };
}

/**
 * The highest rate, within the tolerance, for which meets() says yes, given that it says no from some rate on. ended is false when the signal or the
 * range of rates ended the search before.
 */
export async function searchHighest(
  meets: (qps: number) => Promise<boolean>,
  firstQps: number,
  tolerance: number,
  { lowestQps = LOWEST_QPS, signal }: { readonly lowestQps?: number; readonly signal?: AbortSignal } = {},
): Promise<{ readonly best: number | null; readonly ended: boolean }> {
  if (!(firstQps > 0) || !(tolerance > 0))
    throw new TerabagError('invalid_argument', `first rate and tolerance have to be positive: ${firstQps}, ${tolerance}`);
  let low: number | null = null;
  let high: number | null = null;
  for (let qps = firstQps; (low === null || high === null) && !signal?.aborted; qps = high === null ? qps * 2 : qps / 2) {
    if (qps > HIGHEST_QPS || qps < lowestQps) return { best: low, ended: low === null };
    if (await meets(qps)) low = qps;
    else if (!signal?.aborted) high = qps;
  }
  while (low !== null && high !== null && high / low > 1 + tolerance && !signal?.aborted) {
    const middle = Math.sqrt(low * high);
    if (await meets(middle)) low = middle;
    else if (!signal?.aborted) high = middle;
  }
  return { best: low, ended: !signal?.aborted };
}

/** A probe as plain JSON data: one point of the knee curve. */
export function probeAsJson({ qps, meetsBound, run }: Probe): object {
  const { p50, p90, p99 } = run.latency.summary();
  return {
    qps,
    meetsBound,
    answeredQps: answeredQps(run),
    failed: failures(run),
    p50,
    p90,
    p99,
    hdr: run.latency.encoded(),
    invalid: run.invalid,
  };
}
