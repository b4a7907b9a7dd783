import { TerabagError } from '../errors.js';
import type { PredictOptions, PredictRequest } from '../predictor/predictor.js';
import { type InferAnswer, type InferCall, infer, type Predicted, rank } from './inference.js';
import type { Repository } from './repository.js';

export type Protocol = 'http' | 'grpc';

/** A request that was answered, or refused. */
export interface EndedRequest {
  readonly protocol: Protocol;
  /** As the client wrote it; only of models that are served. */
  readonly model: string;
  readonly version: string;
  /** ok, or the code of the error. */
  readonly code: string;
  readonly items: number;
  readonly ms: number;
}

/** What all protocols share: models, whether requests are taken, and who is told of each. */
export class Serving {
  #draining = false;
  #inFlight = 0;
  #whenIdle: (() => void) | null = null;

  constructor(
    readonly repository: Repository,
    readonly options: {
      /** Whether clients may load and unload models. */
      readonly repositoryControl: boolean;
      readonly onRequest?: ((ended: EndedRequest) => void) | undefined;
    },
  ) {}

  /** Whether traffic should come here: not while it drains, and only when every table of every model has a live replica. */
  get ready(): boolean {
    return !this.#draining && this.repository.ready;
  }

  get draining(): boolean {
    return this.#draining;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  infer(protocol: Protocol, call: InferCall): Promise<InferAnswer> {
    return this.#counted(protocol, () => infer(this.repository, call));
  }

  rank(
    protocol: Protocol,
    call: Pick<InferCall, 'model' | 'version' | 'options'> & { readonly request: PredictRequest },
  ): Promise<Predicted> {
    return this.#counted(protocol, () => rank(this.repository, call));
  }

  async #counted<T extends Predicted>(protocol: Protocol, run: () => Promise<T>): Promise<T> {
    const startedAt = performance.now();
    this.#inFlight++;
    const { onRequest } = this.options;
    try {
      const answer = await run();
      const { model, prediction } = answer;
      onRequest?.({
        protocol,
        model: model.name,
        version: model.version,
        code: 'ok',
        items: prediction.items,
        ms: performance.now() - startedAt,
      });
      return answer;
    } catch (thrown) {
      const error = TerabagError.from(thrown);
      onRequest?.({ protocol, model: '', version: '', code: error.code, items: 0, ms: performance.now() - startedAt });
      throw error;
    } finally {
      this.#inFlight--;
      if (this.#inFlight === 0) this.#whenIdle?.();
    }
  }

  /** Throws unsupported unless clients may load and unload models. */
  requireRepositoryControl(): void {
    if (this.options.repositoryControl) return;
    throw new TerabagError(
      'unsupported',
      'models cannot be loaded and unloaded by clients here; the server has to allow it (--allow-repository-control)',
    );
  }

  /** Not ready from here on; requests that come all the same are answered. */
  startDraining(): void {
    this.#draining = true;
  }

  /** Resolves when no request is in flight. */
  whenIdle(): Promise<void> {
    if (this.#inFlight === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#whenIdle = resolve;
    });
  }
}

/** What a client asks of one request: its deadline is the smaller of the two, in ms, where it names any. */
export function predictOptions(timeouts: readonly (number | undefined)[], signal: AbortSignal): PredictOptions {
  const given = timeouts.filter((ms) => ms !== undefined && ms > 0) as number[];
  return given.length === 0 ? { signal } : { signal, deadlineMs: Math.min(...given, MOST_DEADLINE_MS) };
}

const MOST_DEADLINE_MS = 2 ** 31 - 1;
