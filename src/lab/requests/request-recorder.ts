import { type ErrorCode, TerabagError } from '../../errors.js';
import type { ResolvedModel } from '../../model/graph.js';
import type { PredictorStats } from '../../observe/counters.js';
import type { Prediction, PredictOptions, Predictor, PredictRequest, Readiness } from '../../predictor/predictor.js';
import { writeRequestArchive } from './request-archive.js';
import { type CopiedRequest, copyRequest, isFiniteRequest, requestBytes } from './request-copy.js';
import { writeRequests } from './request-file.js';

export interface RecordOptions {
  /** Share of the requests that is recorded, each by chance; default 1. */
  readonly share?: number;
  /** Most bytes of numbers that are kept in memory, and written; default 64 MiB. */
  readonly maxBytes?: number;
  /** Told why a recording is incomplete: full (does_not_fit), requests that could not be kept, or a file that cannot be written. */
  readonly onWarning?: (warning: TerabagError) => void;
  /** In [0, 1); default Math.random. */
  readonly random?: () => number;
}

const DEFAULT_MAX_BYTES = 64 * 2 ** 20;
/** Requests that no predictor of this model takes; a file of requests to replay is better without them. */
const MALFORMED: ReadonlySet<ErrorCode> = new Set(['invalid_argument', 'index_out_of_range', 'bad_offsets']);

/**
 * A predictor that also keeps a sample of the requests that it is asked, and writes them to a file (.jsonl or .safetensors) when it is full or
 * closed. Recording fails no request and waits for nothing: the sample is copied into memory; what goes wrong is a warning.
 */
export function recordRequests(predictor: Predictor, path: string, options: RecordOptions = {}): RequestRecorder {
  return new RequestRecorder(predictor, path, options);
}

export class RequestRecorder implements Predictor {
  readonly #kept: CopiedRequest[] = [];
  readonly #share: number;
  readonly #maxBytes: number;
  /** Bytes of requests that are kept, and of those in flight. */
  #bytes = 0;
  #dropped = 0;
  readonly #json: boolean;
  #warnedUnwritable = false;
  /** Not null once the recording has ended, full or closed. What is in flight then is not kept. */
  #writing: Promise<void> | null = null;

  constructor(
    private readonly predictor: Predictor,
    private readonly path: string,
    private readonly options: RecordOptions,
  ) {
    const { share = 1, maxBytes = DEFAULT_MAX_BYTES } = options;
    if (!(share >= 0 && share <= 1)) throw new TerabagError('invalid_argument', `share has to be from 0 to 1: ${share}`, { share });
    if (!/\.(jsonl|safetensors)$/.test(path))
      throw new TerabagError('invalid_argument', `a file of requests ends with .jsonl or .safetensors: ${path}`, { path });
    this.#json = path.endsWith('.jsonl');
    this.#share = share;
    this.#maxBytes = maxBytes;
  }

  get modelHash(): string {
    return this.predictor.modelHash;
  }

  get model(): ResolvedModel {
    return this.predictor.model;
  }

  predict(request: PredictRequest, options?: PredictOptions): Promise<Prediction> {
    const copy = this.#sample(request);
    const answer = this.predictor.predict(request, options);
    if (copy === null) return answer;
    answer.then(
      () => this.#keep(copy),
      (error: unknown) => (MALFORMED.has(TerabagError.from(error).code) ? this.#drop(copy) : this.#keep(copy)),
    );
    return answer;
  }

  /** Those of the predictor, and recordedRequests, recordedBytes, unrecordedRequests (sampled, but malformed, or answered after the end). */
  readiness(): Readiness {
    return this.predictor.readiness();
  }

  stats(): PredictorStats & Readonly<Record<'recordedRequests' | 'recordedBytes' | 'unrecordedRequests', number>> {
    return {
      ...this.predictor.stats(),
      recordedRequests: this.#kept.length,
      recordedBytes: this.#bytes,
      unrecordedRequests: this.#dropped,
    };
  }

  /** Closes the predictor, then writes what is left to write. */
  async close(): Promise<void> {
    try {
      await this.predictor.close();
    } finally {
      this.#writing ??= this.#write();
      await this.#writing;
    }
  }

  #sample(request: PredictRequest): CopiedRequest | null {
    if (this.#writing !== null || (this.options.random ?? Math.random)() >= this.#share) return null;
    let copy: CopiedRequest;
    try {
      copy = copyRequest(request);
    } catch {
      // The predictor says what is wrong with it.
      this.#dropped++;
      return null;
    }
    if (this.#json && !isFiniteRequest(copy)) {
      this.#unwritable();
      return null;
    }
    const bytes = requestBytes(copy);
    if (this.#bytes + bytes > this.#maxBytes) {
      this.#end();
      return null;
    }
    this.#bytes += bytes;
    return copy;
  }

  /** Told once. */
  #unwritable(): void {
    this.#dropped++;
    if (this.#warnedUnwritable) return;
    this.#warnedUnwritable = true;
    this.#warn(
      new TerabagError(
        'invalid_argument',
        `requests with NaN or infinity are left out, which JSONL has not: ${this.path}; a .safetensors file has`,
        {
          path: this.path,
        },
      ),
    );
  }

  #keep(copy: CopiedRequest): void {
    if (this.#writing !== null) this.#drop(copy);
    else this.#kept.push(copy);
  }

  #drop(copy: CopiedRequest): void {
    this.#dropped++;
    this.#bytes -= requestBytes(copy);
  }

  #end(): void {
    this.#writing = this.#write();
    this.#warn(
      new TerabagError('does_not_fit', `recording is full and ends: ${this.path}, ${this.#bytes} of at most ${this.#maxBytes} bytes`, {
        path: this.path,
        bytes: this.#bytes,
        maxBytes: this.#maxBytes,
      }),
    );
  }

  async #write(): Promise<void> {
    try {
      if (this.#kept.length > 0) await (this.#json ? writeRequests : writeRequestArchive)(this.path, this.#kept);
      else this.#warn(new TerabagError('invalid_argument', `nothing was recorded: ${this.path}`, { path: this.path }));
    } catch (error) {
      this.#warn(TerabagError.from(error));
    }
  }

  /** A callback that throws is no reason to fail a request. */
  #warn(warning: TerabagError): void {
    try {
      this.options.onWarning?.(warning);
    } catch {}
  }
}
