import { mkdir } from 'node:fs/promises';
import type { Residency } from '../../engine/residency.js';
import { TerabagError } from '../../errors.js';
import { readModelSpec } from '../../model/bundle.js';
import { modelHash } from '../../model/hash.js';
import type { ModelSpec } from '../../model/spec.js';
import { tableBytes } from '../../plan/placement/bytes.js';
import type { PredictRequest } from '../../predictor/predictor.js';
import { fileError } from '../../tables/file-error.js';
import type { Characterisation, Resume } from '../report/characterisation.js';
import { describeMachine } from '../report/machine.js';
import { type Experiment, FULL, mostShardsOpen, QUICK, type Scale } from './experiment.js';
import { evaluateFindings } from './findings.js';
import { firstLook } from './first-look.js';
import type { Group } from './group.js';
import { batchesGroup } from './groups/batches.js';
import { formatsGroup } from './groups/formats.js';
import { networkGroup, slowHostsGroup } from './groups/hosts.js';
import { ratesGroup } from './groups/rates.js';
import { scheduleGroup } from './groups/schedule.js';
import { strategiesGroup } from './groups/strategies.js';
import { traceGroup } from './groups/trace.js';
import { NOTHING } from './measured.js';
import { ResultsFile } from './results-file.js';
import { describeWorkload, profileOf, requestSource, type WorkloadOptions } from './workload.js';

/** In their order: what follows uses the best strategy of the first. */
export const GROUPS: readonly Group[] = [
  strategiesGroup,
  batchesGroup,
  formatsGroup,
  slowHostsGroup,
  networkGroup,
  ratesGroup,
  scheduleGroup,
  traceGroup,
];

export interface CharacteriseOptions extends WorkloadOptions {
  readonly dir: string;
  readonly quick: boolean;
  /** Names of groups; default all. */
  readonly only?: readonly string[];
  readonly qps?: number;
  readonly p99Ms?: number;
  /** Turns of each setup, in place of those of the scale. */
  readonly rounds?: number;
  readonly residency: Residency;
  readonly verify: 'full' | 'size';
  /** As one would type it again. */
  readonly command: string;
  readonly version: string;
  /** Ends the run: groups that are through stay in the file. */
  readonly signal: AbortSignal;
  readonly observer: Observer;
}

/** Is told how far it is. */
export interface Observer {
  /** Reading and checking the tables of the bundle. */
  reading<T>(work: (onProgress: (done: number, total: number) => void) => Promise<T>): Promise<T>;
  /** Once, before the first group: the groups to come with their estimates. */
  planned(
    groups: readonly { readonly name: string; readonly description: string; readonly estimateMs: number }[],
    already: readonly string[],
  ): void;
  /** Around each group; done and total are ms of the estimate. */
  running<T>(name: string, work: (onProgress: (doneMs: number, totalMs: number) => void) => Promise<T>): Promise<T>;
  warned(message: string): void;
}

/** Runs the groups of experiments that are not in the directory's results yet, writing the file after each. The results may be partial: see the signal. */
export async function characterise(bundle: string, options: CharacteriseOptions): Promise<Characterisation> {
  const { dir, signal, observer } = options;
  const groups = chosenGroups(options.only);
  const spec = await readModelSpec(bundle);
  await mkdir(dir, { recursive: true }).catch((cause: unknown) => {
    throw fileError(cause, 'output has to be a directory', dir, 'invalid_argument');
  });
  const scale = scaleOf(options);
  const found = await ResultsFile.find(dir, { hash: modelHash(spec), asked: asked(options) });
  const { requests, chosen } = await observer.reading((onProgress) => prepare(bundle, spec, options, { scale, found, onProgress }));
  if (signal.aborted) throw new TerabagError('aborted', 'the run was interrupted before the first experiment', { dir });
  const profile = profileOf(spec, requests);
  const file = found ?? (await ResultsFile.create(dir, emptyResults(spec, options, { requests, chosen, profile })));
  const { serialMs, qps, p99Ms } = chosen;
  const { seed, residency } = options;
  const experiment: Experiment = {
    ...{ bundle, spec, requests, profile, scale, serialMs, qps, p99Ms, seed, residency, dir, signal },
    mostShardsOpen: await mostShardsOpen(),
    onWarning: (message) => observer.warned(message),
  };
  const left = groups.filter(({ name }) => !file.isFinished(name));
  observer.planned(
    left.map((group) => ({ ...group, estimateMs: group.estimateMs(experiment, file.results) })),
    groups.filter((group) => !left.includes(group)).map(({ name }) => name),
  );
  for (const group of left) {
    if (!(await runGroup(group, experiment, file, observer))) return file.results;
  }
  await file.end();
  return file.results;
}

/** False when the signal ended it: what it measured is not whole, and dropped. */
async function runGroup(group: Group, experiment: Experiment, file: ResultsFile, observer: Observer): Promise<boolean> {
  const { signal } = experiment;
  const total = group.estimateMs(experiment, file.results);
  try {
    await observer.running(group.name, async (onProgress) => {
      const measured = await group.run(experiment, file.results, (doneMs) => onProgress(Math.min(doneMs, total), total));
      if (signal.aborted) throw new TerabagError('aborted', `the run was interrupted in ${group.name}`);
      await file.finish(group.name, measured);
    });
    return true;
  } catch (error) {
    // What a signal ends besides this run, such as shards in its terminal, makes experiments fail.
    if (signal.aborted) return false;
    throw error;
  }
}

function chosenGroups(only: readonly string[] | undefined): readonly Group[] {
  const unknown = only?.find((name) => !GROUPS.some((group) => group.name === name));
  if (unknown !== undefined)
    throw new TerabagError('invalid_argument', `no such group: ${unknown}; there are ${GROUPS.map(({ name }) => name).join(', ')}`, {
      field: 'only',
    });
  return GROUPS.filter(({ name }) => only?.includes(name) ?? true);
}

function scaleOf({ quick, rounds }: CharacteriseOptions): Scale {
  const scale = quick ? QUICK : FULL;
  return rounds === undefined ? scale : { ...scale, rounds: { strategies: rounds, openLoop: rounds, others: rounds } };
}

const asked = ({ requests, items, seed, quick, qps, p99Ms, rounds, residency }: CharacteriseOptions): Resume['asked'] => ({
  ...{ requests: requests ?? null, items, seed, quick },
  ...{ qps: qps ?? null, p99: p99Ms ?? null, rounds: rounds ?? null, residency },
});

const LOOKED_AT = 60;

/** The requests of a turn; how many there are, a first look says, or that of the run which is resumed. */
async function prepare(
  bundle: string,
  spec: ModelSpec,
  options: CharacteriseOptions,
  { scale, found, onProgress }: { scale: Scale; found: ResultsFile | null; onProgress: (done: number, total: number) => void },
): Promise<{ requests: readonly PredictRequest[]; chosen: Resume['chosen'] }> {
  const { residency, verify, signal, qps, p99Ms, observer } = options;
  const source = requestSource(spec, options);
  const requests: PredictRequest[] = [];
  const take = async (most: number): Promise<void> => {
    while (requests.length < most) {
      const { done, value } = await source.next();
      if (done) return;
      requests.push(value);
    }
  };
  let chosen = found?.results.resume.chosen;
  if (chosen === undefined) {
    await take(LOOKED_AT);
    if (requests.length === 0)
      throw new TerabagError('invalid_argument', `no requests to send: ${options.requests}`, { field: 'requests' });
    const given = { ...(qps !== undefined && { qps }), ...(p99Ms !== undefined && { p99Ms }) };
    const onWarning = (message: string): void => observer.warned(message);
    chosen = await firstLook(bundle, requests, { scale, residency, verify, signal, onProgress, onWarning, ...given });
  }
  await take(chosen.requests);
  await source.return(undefined);
  return { requests: requests.slice(0, chosen.requests), chosen };
}

function emptyResults(
  spec: ModelSpec,
  options: CharacteriseOptions,
  { requests, chosen, profile }: { requests: readonly PredictRequest[]; chosen: Resume['chosen']; profile: Experiment['profile'] },
): Characterisation & { readonly resume: Resume } {
  const { name, version, tables, nets } = spec;
  const results = {
    terabagCharacterisation: 1 as const,
    ...{ terabag: options.version, command: options.command },
    ...{ startedAt: new Date().toISOString(), endedAt: null },
    machine: describeMachine(),
    model: {
      ...{ name, version, hash: modelHash(spec), tables: tables.length, nets: nets.length },
      bytes: tables.reduce((sum, table) => sum + tableBytes(table), 0),
    },
    workload: describeWorkload(spec, requests, profile, options),
    ...NOTHING,
    findings: [],
    resume: { asked: asked(options), chosen, finished: [] },
  };
  return { ...results, findings: evaluateFindings(results) };
}
