import { z } from 'zod';
import { RPC_MODES } from '../../plan/predict/rpc-mode.js';
import { writeFileAtomic } from '../../tables/atomic.js';
import { checkJson, type JsonFileKind, readJsonFile } from '../../tables/json-file.js';

/**
 * The results of `terabag characterise`, which `terabag report` draws. Times are milliseconds unless the name says otherwise. The file is written
 * anew after every experiment, so that an interrupted one can go on: lists that are still short or empty are valid, and the report shows what is
 * there. Null always stands for "not measured", or where it says so for a value that does not exist.
 */

const name = z.string().min(1).max(256);
const text = z.string().min(1);
const count = z.number().int().min(0);
const amount = z.number().min(0);
const instant = z.iso.datetime();
/** Milliseconds; null when no request was answered. */
const quantileMs = amount.nullable();

/** As describeMachine() gives it. */
const machineSchema = z.strictObject({ cpu: text, cores: count, memoryBytes: amount, system: text, node: text, isa: text });

const modelSchema = z.strictObject({
  name,
  version: text,
  hash: z.string().regex(/^[0-9a-f]{64}$/),
  /** Bytes of all tables, as the bundle that was given holds them. */
  bytes: amount,
  tables: count,
  nets: count,
});

const workloadSchema = z.strictObject({
  /** How many items requests have, in words: "64", or "lognormal, median 130, at most 1000". */
  items: text,
  meanItems: amount,
  mostItems: count,
  /** How rows recur, in words. */
  reuse: text,
  /** Mean number of ids over all tables. */
  lookupsPerRequest: amount.nullable(),
  seed: z.number().int(),
  /** Different requests that were made; loads send them round and round. */
  requests: count,
});

/** A shard of the plan, or main with the tables that it holds itself: of singular, all. */
const holderSchema = z.strictObject({
  name,
  bytes: amount,
  /** Tables, and parts of tables. */
  tables: count,
  /** Ids of the workload's mean request that fall on it. */
  lookupsPerRequest: amount.nullable(),
  /** The largest tables by bytes held here, descending; what bytes has more is that of all others. parts: how many parts the table is split into. */
  largest: z.array(z.strictObject({ table: name, bytes: amount, parts: z.number().int().min(1) })),
});
export type PlanHolder = z.output<typeof holderSchema>;

/** LatencyHistogram.toJSON(): a summary, and all buckets as text. */
const latencySchema = z.strictObject({
  count,
  mean: quantileMs,
  p50: quantileMs,
  p90: quantileMs,
  p99: quantileMs,
  p999: quantileMs,
  max: quantileMs,
  /** LatencyHistogram.encoded(). */
  hdr: text,
});

/** From the bottom up; names are those of src/observe/stacks.ts. */
const layersSchema = z.array(z.strictObject({ layer: name, ms: amount }));
export type StackLayers = z.output<typeof layersSchema>;

/** Means over the traced requests around a quantile of latency. */
const stacksSchema = z.strictObject({
  /** 0.5 or 0.99, say. */
  quantile: z.number().min(0).max(1),
  /** How many requests were averaged. */
  requests: count,
  /** The whole request: the layers add up to its latency. */
  latency: layersSchema,
  /** The bounding shard, which answered last. */
  embedded: layersSchema,
  /** CPU time over main and all shards. */
  compute: layersSchema,
});

/** One load on one configuration, all its repeats together. */
const runSchema = z
  .strictObject({
    kind: z.enum(['serial', 'open-loop']),
    /** Requests a second that were meant to be sent; null of serial load. */
    qps: z.number().positive().nullable(),
    repeats: z.number().int().min(1),
    /** Summed over all repeats. */
    measuredMs: amount,
    /** Answered and failed. */
    requests: count,
    /** Failed requests by error code. */
    failures: z.record(text, count),
    /** Why the run says nothing of the system under test; empty when it is valid. */
    invalid: z.array(text),
    /** Latency of answered requests; of open-loop load from the intended send time. */
    latencyMs: latencySchema,
    /** Null as a whole without an answer; shards and total also when shards did not tell. */
    cpuMsPerRequest: z.strictObject({ main: amount, shards: amount.nullable(), total: amount.nullable() }).nullable(),
    rpcsPerRequest: amount.nullable(),
    bytesPerRequest: z.strictObject({ sent: amount, received: amount }).nullable(),
    /** Garbage collections of the process of main, within measuredMs. */
    collections: z.strictObject({ count, ms: amount }).nullable(),
    /** How much later than due the event loop of main came round; of the worst repeat. */
    loopDelayMs: z.strictObject({ p50: amount, p99: amount, max: amount }).nullable(),
    /** Empty when requests were not traced. */
    stacks: z.array(stacksSchema),
  })
  .refine(({ kind, qps }) => (kind === 'serial') === (qps === null), {
    path: ['qps'],
    message: 'has to be a rate for open-loop and null for serial',
  });
export type CharacterisedRun = z.output<typeof runSchema>;

const configurationSchema = z.strictObject({
  /** Such as singular, load-balanced-4 or load-balanced-4-int8: what all else refers to. */
  id: name,
  strategy: name,
  /** Sparse shards; 0 of singular. */
  shards: count,
  /** Null when there is nothing to call. */
  rpc: z.enum(RPC_MODES).nullable(),
  rowFormat: name,
  /** Items per batch; null: requests as a whole. */
  batchItems: z.number().int().min(1).nullable(),
  /** Added between main and the shards, one way; null when nothing is. loss: the share of packets, 0 to 1. */
  network: z.strictObject({ delayMs: amount, loss: z.number().min(0).max(1) }).nullable(),
  /** Cores that each shard may use; null without a limit. */
  shardCpuLimit: z.number().positive().nullable(),
  plan: z.array(holderSchema),
  /** One per kind and qps. */
  runs: z.array(runSchema),
});
export type Configuration = z.output<typeof configurationSchema>;

/** Ratios of pairs that ran side by side: their median, the lowest and the highest. */
const ratioSchema = z.strictObject({ median: amount, low: amount, high: amount });
export type Ratio = z.output<typeof ratioSchema>;

/** A configuration against another one, both under the same load in turn. */
const overheadSchema = z.strictObject({
  configuration: name,
  /** The configuration that is 1. */
  baseline: name,
  kind: z.enum(['serial', 'open-loop']),
  qps: z.number().positive().nullable(),
  pairs: z.number().int().min(1),
  p50: ratioSchema,
  p90: ratioSchema,
  p99: ratioSchema,
  /** CPU per request of main and shards; null when shards did not tell. */
  cpu: ratioSchema.nullable(),
});
export type Overhead = z.output<typeof overheadSchema>;

/** Latency against the rate of open-loop load. */
const kneeSchema = z.strictObject({
  configuration: name,
  /** What the search held P99 to, and the highest rate found to do so; null when there was no search, or none was found. */
  p99BoundMs: z.number().positive().nullable(),
  maxQps: z.number().positive().nullable(),
  /** Ascending in qps. Null latency: requests failed, so that the quantile is beyond any answer. */
  points: z.array(z.strictObject({ qps: z.number().positive(), p50: quantileMs, p99: quantileMs, valid: z.boolean() })),
});
export type KneeCurve = z.output<typeof kneeSchema>;

/** Serial latency against items per batch, all else as the configuration has it. */
const batchSweepSchema = z.strictObject({
  configuration: name,
  /** Ascending in batchItems. */
  points: z.array(z.strictObject({ batchItems: z.number().int().min(1), p50: quantileMs, p99: quantileMs, cpuMs: amount.nullable() })),
});
export type BatchSweep = z.output<typeof batchSweepSchema>;

const batchQpsSchema = z.strictObject({ items: z.number().int().min(1), qps: amount });

/** What the batch scheduler found: the batch size of the most requests a second under the bound. */
const batchScheduleSchema = z.strictObject({
  configuration: name,
  p99BoundMs: z.number().positive(),
  best: batchQpsSchema,
  /** Ascending in items; qps 0: the bound was met at no rate. */
  measured: z.array(batchQpsSchema),
});
export type BatchScheduleResult = z.output<typeof batchScheduleSchema>;

/** What one request did when. Clocks of hosts are not compared: spans on a shard are placed in the middle of their RPC. */
const waterfallSchema = z.strictObject({
  configuration: name,
  /** Which request it is, in words: "the median of 400 serial requests". */
  request: text,
  items: count,
  latencyMs: amount,
  /** Lanes are drawn in the order in which they first come. layer: of src/observe/stacks.ts, for the colour; null when it is of none. */
  spans: z.array(z.strictObject({ lane: name, name, startMs: amount, durationMs: amount, layer: name.nullable() })),
});
export type Waterfall = z.output<typeof waterfallSchema>;

const findingSchema = z.strictObject({
  id: name,
  /** What was claimed, as a hypothesis and in words of this project. */
  statement: text,
  /** On this machine, with this model; null: not measured. */
  held: z.boolean().nullable(),
  /** The figures that decide it, or why there are none. */
  numbers: text,
});
export type Finding = z.output<typeof findingSchema>;

/** What a later start of the same command needs to go on. */
const resumeSchema = z.strictObject({
  /** Options that decide the numbers: an other command has its own file. */
  asked: z.record(text, z.union([z.string(), z.number(), z.boolean(), z.null()])),
  /** What a first look at the model chose: mean serial latency of all tables in one process, requests of a turn, steady rate, bound of P99. */
  chosen: z.strictObject({ serialMs: amount, requests: count, qps: z.number().positive(), p99Ms: z.number().positive() }),
  /** Names of the groups of experiments that are through. */
  finished: z.array(name),
});
export type Resume = z.output<typeof resumeSchema>;

const skippedSchema = z.strictObject({ experiment: text, reason: text });

export const characterisationSchema = z
  .strictObject({
    terabagCharacterisation: z.literal(1),
    /** Version of the package. */
    terabag: text,
    /** As one would type it to run it again. */
    command: text,
    startedAt: instant,
    /** Null until all experiments are through. */
    endedAt: instant.nullable(),
    machine: machineSchema,
    model: modelSchema,
    workload: workloadSchema,
    configurations: z.array(configurationSchema),
    overheads: z.array(overheadSchema),
    knees: z.array(kneeSchema),
    batchSweeps: z.array(batchSweepSchema),
    batchSchedules: z.array(batchScheduleSchema),
    waterfall: waterfallSchema.nullable(),
    findings: z.array(findingSchema),
    skipped: z.array(skippedSchema),
    resume: resumeSchema.optional(),
  })
  .superRefine((results, context) => {
    const complain = (path: (string | number)[], message: string): void => context.addIssue({ code: 'custom', path, message });
    const ids = results.configurations.map(({ id }) => id);
    ids.forEach((id, c) => ids.indexOf(id) < c && complain(['configurations', c, 'id'], `is there twice: ${id}`));
    results.configurations.forEach(({ runs }, c) => {
      const loads = runs.map(({ kind, qps }) => `${kind} ${qps}`);
      loads.forEach(
        (load, r) => loads.indexOf(load) < r && complain(['configurations', c, 'runs', r], `has one run per kind and qps: ${load}`),
      );
    });
    const known = (path: (string | number)[], id: string): void => {
      if (!ids.includes(id)) complain(path, `names no configuration: ${id}`);
    };
    for (const list of ['overheads', 'knees', 'batchSweeps', 'batchSchedules'] as const)
      results[list].forEach(({ configuration }, n) => known([list, n, 'configuration'], configuration));
    results.overheads.forEach(({ baseline }, n) => known(['overheads', n, 'baseline'], baseline));
    if (results.waterfall !== null) known(['waterfall', 'configuration'], results.waterfall.configuration);
  });
export type Characterisation = z.output<typeof characterisationSchema>;

const KIND: JsonFileKind = { what: 'results of characterise', code: 'invalid_argument' };

export const readCharacterisation = (path: string): Promise<Characterisation> => readJsonFile(path, KIND, characterisationSchema);

export async function writeCharacterisation(path: string, results: Characterisation): Promise<void> {
  await writeFileAtomic(path, `${JSON.stringify(checkJson(path, results, KIND, characterisationSchema))}\n`);
}
