import { TerabagError } from '../../errors.js';
import type { PlannedModel } from '../../plan/predict/work.js';
import type { Profile } from '../../plan/profile/profile.js';
import { ProfileBuilder } from '../../plan/profile/profile-builder.js';
import { firstBadId } from '../../predictor/ids.js';
import { checkRequest } from '../../predictor/request.js';
import { Scratch } from '../../predictor/scratch.js';
import { SeededNumbers } from '../generate/synthetic-values.js';
import { readLines } from './lines.js';
import { locatedError, parseLine, type ReadRequest, readRequests } from './request-file.js';

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
 * Samples requests of a file into a profile: JSONL ("-" is stdin) or safetensors; each is as likely, and the same file gives the same sample.
 * Holds the sampled ones, of JSONL their text, whatever the file's length. Fails when the model answers none, with what is wrong with the first.
 */
export async function profileRequests({ spec, model }: PlannedModel, path: string, options: SampleOptions): Promise<SampledProfile> {
  const { sampled, fileRequests } = await sample(path.endsWith('.safetensors') ? archived(path, options) : lines(path, options), options);
  const builder = new ProfileBuilder(spec);
  const scratch = new Scratch();
  const errors: TerabagError[] = [];
  for (const { line, read: readNow } of sampled) {
    const read = readNow();
    if ('error' in read) {
      errors.push(read.error);
      continue;
    }
    try {
      const checked = checkRequest(model, read.request, scratch);
      const bad = firstBadId(model, checked);
      if (bad !== null) throw bad;
      builder.add(checked);
    } catch (thrown) {
      errors.push(locatedError(path, line, thrown));
    }
  }
  const [first = null] = errors;
  if (first !== null && errors.length === sampled.length) throw first;
  if (sampled.length === 0) throw new TerabagError('invalid_argument', `no requests to sample: ${path}`, { path });
  return { profile: builder.build(), fileRequests, bad: { count: errors.length, first } };
}

/** A request of a file; what takes time to read is read when it is sampled. */
interface FileRequest {
  readonly line: number;
  readonly read: () => ReadRequest;
}

async function* lines(path: string, { onProgress }: SampleOptions): AsyncGenerator<FileRequest> {
  for await (const read of readLines(path, { onProgress })) yield { line: read.line, read: () => parseLine(read) };
}

async function* archived(path: string, { onProgress }: SampleOptions): AsyncGenerator<FileRequest> {
  for await (const read of readRequests(path, onProgress)) yield { line: read.line, read: () => read };
}

/** Reservoir sampling (Vitter's algorithm R). */
async function sample(
  all: AsyncIterable<FileRequest>,
  { requests }: SampleOptions,
): Promise<{ sampled: FileRequest[]; fileRequests: number }> {
  const numbers = new SeededNumbers(SAMPLE_SEED);
  const sampled: FileRequest[] = [];
  let fileRequests = 0;
  for await (const request of all) {
    fileRequests++;
    if (sampled.length < requests) sampled.push(request);
    else {
      const place = Math.floor(numbers.uniform() * fileRequests);
      if (place < requests) sampled[place] = request;
    }
  }
  return { sampled, fileRequests };
}
