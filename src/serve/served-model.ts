import { TerabagError } from '../errors.js';
import type { Predictor } from '../predictor/predictor.js';
import type { LookupCounter } from './page/lookup-counter.js';
import { type ModelStatistics, StatisticsCounter } from './statistics.js';
import { type Signature, signatureOf } from './tensors/signature.js';

/** Where a version of a model comes from. */
export interface ModelSource {
  readonly name: string;
  readonly version: string;
  /** Opens it; the signal ends that. What it gives is closed when the version is unloaded. */
  readonly open: (signal: AbortSignal) => Promise<Predictor>;
}

/** As the repository extension of the Open Inference Protocol names them. */
export type ModelState = 'LOADING' | 'READY' | 'UNAVAILABLE';

/** A predictor that answers requests, and what its model takes. */
export interface Opened {
  readonly predictor: Predictor;
  readonly signature: Signature;
  /** performance.now(). */
  readonly openedAt: number;
}

/** One version of a model: its predictor once it is opened, why it is not, and what was counted of it. */
export class ServedModel {
  readonly counter = new StatisticsCounter();
  /** Null while nobody watches. */
  lookups: LookupCounter | null = null;
  #opened: Opened | null = null;
  #opening: { readonly abort: AbortController; readonly done: Promise<void> } | null = null;
  #failure: TerabagError | null = null;

  constructor(private source: ModelSource) {}

  get name(): string {
    return this.source.name;
  }

  get version(): string {
    return this.source.version;
  }

  /** Null while it is being opened for the first time, when that failed, and after close. */
  get opened(): Opened | null {
    return this.#opened;
  }

  get state(): ModelState {
    if (this.#opened !== null) return 'READY';
    return this.#opening === null ? 'UNAVAILABLE' : 'LOADING';
  }

  /** Why it is not READY; empty when it is. */
  get reason(): string {
    if (this.#opened !== null) return '';
    if (this.#opening !== null) return 'loading';
    return this.#failure?.message ?? 'unloaded';
  }

  statistics(): ModelStatistics {
    return this.counter.statistics(this.name, this.version);
  }

  /** Whether requests are answered now; why they are not otherwise. */
  readiness(): { readonly ready: boolean; readonly reasons: readonly string[] } {
    if (this.#opened === null) return { ready: false, reasons: [this.reason] };
    const { ready, missing } = this.#opened.predictor.readiness();
    return { ready, reasons: missing.map(({ shard, reason }) => `${shard}: ${reason}`) };
  }

  /**
   * Opens what source gives, and then puts it in the place of what is served, whose requests in flight are answered. Rejects with the reason when it
   * cannot be opened: what was served is served on.
   */
  open(source: ModelSource = this.source): Promise<void> {
    if (this.#opening !== null) return this.#opening.done;
    const abort = new AbortController();
    const done = this.#open(source, abort.signal).finally(() => {
      this.#opening = null;
    });
    this.#opening = { abort, done };
    return done;
  }

  async #open(source: ModelSource, signal: AbortSignal): Promise<void> {
    try {
      const predictor = await source.open(signal);
      if (signal.aborted) {
        await predictor.close();
        throw new TerabagError('aborted', `model ${this.name} was unloaded while it was loaded`);
      }
      const before = this.#opened;
      this.source = source;
      this.#opened = { predictor, signature: signatureOf(predictor.model), openedAt: performance.now() };
      this.#failure = null;
      // It answers what it has; nobody waits for that.
      void before?.predictor.close().catch(() => undefined);
    } catch (error) {
      this.#failure = TerabagError.from(error);
      throw this.#failure;
    }
  }

  /** Ends an opening, refuses new requests and waits for those in flight. */
  async close(): Promise<void> {
    const opening = this.#opening;
    opening?.abort.abort();
    await opening?.done.catch(() => undefined);
    this.#failure = null;
    const opened = this.#opened;
    this.#opened = null;
    await opened?.predictor.close();
  }
}
