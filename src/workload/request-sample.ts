import { TerabagError } from '../errors.js';
import type { Bundle } from '../model/bundle.js';
import type { ResolvedModel } from '../model/graph.js';
import type { Profile } from '../plan/profile.js';
import { ProfileBuilder } from '../plan/profile-builder.js';
import { rowAt } from '../predictor/partition.js';
import { type CheckedRequest, checkRequest } from '../predictor/request.js';
import { Scratch } from '../predictor/scratch.js';
import { parseLine, readLines } from './request-file.js';
import { SeededNumbers } from './synthetic-values.js';

const SAMPLE_SEED = 1;

export interface SampleOptions {
  /** Requests to sample; all when the file has fewer. */
  readonly requests: number;
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
}

export interface SampledProfile {
  readonly profile: Profile;
  /** Requests of the file. */
  readonly fileRequests: number;
  /** Sampled lines that the model does not answer, and what is wrong with the first. */
  readonly bad: { readonly count: number; readonly first: TerabagError | null };
}

/**
 * Samples requests of a JSONL file ("-" reads stdin) into a profile; each is as likely, and the same file gives the same sample. Holds the
 * text of the sampled lines, whatever the file's length. Fails when the model answers none of them, with what is wrong with the first.
 */
export async function profileRequests(bundle: Bundle, path: string, options: SampleOptions): Promise<SampledProfile> {
  const { lines, fileRequests } = await sampleLines(path, options);
  const model = bundle.model as ResolvedModel;
  const builder = new ProfileBuilder(bundle.spec);
  const scratch = new Scratch();
  const errors: TerabagError[] = [];
  for (const { line, text } of lines) {
    try {
      const read = parseLine(text, line);
      if ('error' in read) throw read.error;
      const checked = checkRequest(model, read.request, scratch);
      checkIds(model, checked);
      builder.add(checked);
    } catch (thrown) {
      const { code, message, details } = TerabagError.from(thrown);
      const located = message.startsWith('line ') ? message : `line ${line}: ${message}`;
      errors.push(new TerabagError(code, located, { ...details, line }, { cause: thrown }));
    }
  }
  const [first = null] = errors;
  if (first !== null && errors.length === lines.length) throw first;
  if (lines.length === 0) throw new TerabagError('invalid_argument', `no requests to sample: ${path}`, { path });
  return { profile: builder.build(), fileRequests, bad: { count: errors.length, first } };
}

interface Line {
  readonly line: number;
  readonly text: string;
}

/** Reservoir sampling (Vitter's algorithm R) of the lines that are not empty. */
async function sampleLines(path: string, { requests, onProgress }: SampleOptions): Promise<{ lines: Line[]; fileRequests: number }> {
  const numbers = new SeededNumbers(SAMPLE_SEED);
  const lines: Line[] = [];
  let fileRequests = 0;
  for await (const line of readLines(path, onProgress)) {
    fileRequests++;
    if (lines.length < requests) lines.push(line);
    else {
      const place = Math.floor(numbers.uniform() * fileRequests);
      if (place < requests) lines[place] = line;
    }
  }
  return { lines, fileRequests };
}

function checkIds(model: ResolvedModel, { bags }: CheckedRequest): void {
  for (const [at, checked] of bags.entries()) {
    const bag = model.bags[at] as ResolvedModel['bags'][number];
    for (let position = 0; position < checked.input.indices.length; position++) rowAt(bag, checked, position);
  }
}
