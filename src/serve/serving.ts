import { TerabagError } from '../errors.js';
import { PRIORITIES, type PredictOptions, type PredictRequest, type Priority } from '../predictor/predictor.js';
import { type InferAnswer, type InferCall, infer, type Predicted, rank } from './inference.js';
import { type Answering, alone, type Peers } from './peers.js';
import type { Repository } from './repository.js';
import { type ModelStatistics, sumStatistics } from './statistics.js';

export type Protocol = 'http' | 'grpc';

/** A request that was answered, or refused. */
export interface EndedRequest {
  readonly protocol: Protocol;
  /** Empty, as its version, when no such model is served. */
  readonly model: string;
  readonly version: string;
  /** ok, or the code of the error. */
  readonly code: string;
  readonly items: number;
  readonly ms: number;
}

/** What all protocols share: models, whether requests are taken, and who is told of each. */
export class Serving {
  /** All processes of this server. */
  readonly peers: Peers;
  readonly #answers = new Map<string, (argument: string) => unknown>();
  #draining = false;
  #inFlight = 0;
  #whenIdle: (() => void) | null = null;

  constructor(
    readonly repository: Repository,
    readonly options: {
      /** Whether clients may load and unload models. */
      readonly repositoryControl: boolean;
      readonly onRequest?: ((ended: EndedRequest) => void) | undefined;
      /** How to reach the other processes of this server; default there are none. */
      readonly peersOf?: ((answer: Answering) => Peers) | undefined;
    },
  ) {
    const { peersOf = alone } = options;
    this.peers = peersOf(async (question, argument) => {
      const answer = this.#answers.get(question);
      if (answer !== undefined) return answer(argument);
      throw new TerabagError('internal', `no process answers such a question: ${question}`);
    });
    this.answer('statistics', () => repository.models.map((model) => model.statistics()));
    this.answer('load', (name) => repository.load(name));
    this.answer('unload', (name) => repository.unload(name));
  }

  /** Says what this process answers when any of the server asks. */
  answer(question: string, answer: (argument: string) => unknown): void {
    this.#answers.set(question, answer);
  }

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
    return this.#counted(protocol, call, () => infer(this.repository, call));
  }

  rank(
    protocol: Protocol,
    call: Pick<InferCall, 'model' | 'version' | 'options'> & { readonly request: PredictRequest },
  ): Promise<Predicted> {
    return this.#counted(protocol, call, () => rank(this.repository, call));
  }

  async #counted<T extends Predicted>(
    protocol: Protocol,
    { model: name, version: asked }: Pick<InferCall, 'model' | 'version'>,
    run: () => Promise<T>,
  ): Promise<T> {
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
      const model = this.repository.find(name, asked);
      const of = { model: model?.name ?? '', version: model?.version ?? '' };
      onRequest?.({ protocol, ...of, code: error.code, items: 0, ms: performance.now() - startedAt });
      throw error;
    } finally {
      this.#inFlight--;
      if (this.#inFlight === 0) this.#whenIdle?.();
    }
  }

  /** Of one version, of all of a model, or of all models when none is named, over all processes. Throws not_found. */
  async statistics(name = '', version = ''): Promise<ModelStatistics[]> {
    const { repository } = this;
    const models = name === '' ? repository.models : version === '' ? repository.versions(name) : [repository.model(name, version)];
    const told = (await this.peers.ask('statistics')) as readonly (readonly ModelStatistics[])[];
    return models.map((model) => {
      const same = told.flat().filter((each) => each.name === model.name && each.version === model.version);
      return same.length === 0 ? model.statistics() : same.reduce(sumStatistics);
    });
  }

  /** In all processes. Throws unsupported unless clients may. */
  async changeRepository(change: 'load' | 'unload', name: string): Promise<void> {
    if (this.options.repositoryControl) {
      await this.peers.ask(change, name);
      return;
    }
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

/** What a client asks of one request. */
export interface Asked {
  /** Ms; its deadline is the smallest of those above 0, where it names any. */
  readonly timeouts: readonly (number | undefined)[];
  /** 1 is the highest; 0 or none: the default. */
  readonly priority?: number | undefined;
  /** Whose request it is: callers take turns where requests wait. */
  readonly caller?: string | undefined;
  readonly signal: AbortSignal;
}

export function predictOptions({ timeouts, priority = 0, caller, signal }: Asked): PredictOptions {
  const given = timeouts.filter((ms) => ms !== undefined && ms > 0) as number[];
  return {
    signal,
    ...(given.length > 0 && { deadlineMs: Math.min(...given, MOST_DEADLINE_MS) }),
    ...(priority > 0 && { priority: PRIORITIES[Math.min(priority, PRIORITIES.length) - 1] as Priority }),
    ...(caller !== undefined && { caller }),
  };
}

const MOST_DEADLINE_MS = 2 ** 31 - 1;
