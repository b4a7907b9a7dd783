import { TerabagError } from '../errors.js';
import { PRIORITIES, type PredictOptions, type PredictRequest, type Priority } from '../predictor/predictor.js';
import { type InferAnswer, type InferCall, infer, type Predicted, rank } from './inference.js';
import { type Answering, alone, type Peers } from './peers.js';
import type { Repository } from './repository.js';
import { type ModelStatistics, sumStatistics } from './statistics.js';
import type { RequestTraces, TracedCall } from './traces/request-traces.js';

export type Protocol = 'http' | 'grpc';

type Call = Pick<InferCall, 'model' | 'version' | 'options' | 'arrival'>;

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
  readonly #whenIdle: (() => void)[] = [];

  constructor(
    readonly repository: Repository,
    readonly options: {
      /** Whether clients may load and unload models. */
      readonly repositoryControl: boolean;
      readonly onRequest?: ((ended: EndedRequest) => void) | undefined;
      /** Spans of requests; default none. */
      readonly traces?: RequestTraces | null;
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
    return this.#counted(protocol, call, (options) => infer(this.repository, { ...call, options }));
  }

  rank(protocol: Protocol, call: Call & { readonly request: PredictRequest }): Promise<Predicted> {
    return this.#counted(protocol, call, (options) => rank(this.repository, { ...call, options }));
  }

  async #counted<T extends Predicted>(protocol: Protocol, call: Call, run: (options: PredictOptions) => Promise<T>): Promise<T> {
    const { startedAt } = call.arrival;
    this.#inFlight++;
    const traced = this.#traced(protocol, call);
    const ended = (of: Pick<EndedRequest, 'model' | 'version' | 'code' | 'items'>): void =>
      this.options.onRequest?.({ ...of, protocol, ms: performance.now() - startedAt });
    try {
      const answer = await run(traced === null ? call.options : { ...call.options, trace: traced.stages });
      const { name: model, version } = answer.model;
      const { items, degraded = false } = answer.prediction;
      ended({ model, version, code: 'ok', items });
      traced?.end({ code: 'ok', items, degraded });
      return answer;
    } catch (thrown) {
      const { code, message } = TerabagError.from(thrown);
      const { name: model = '', version = '' } = this.repository.find(call.model, call.version) ?? {};
      ended({ model, version, code, items: 0 });
      traced?.end({ code, items: 0, degraded: false, message });
      throw thrown;
    } finally {
      this.#inFlight--;
      if (this.#inFlight === 0) for (const idle of this.#whenIdle.splice(0)) idle();
    }
  }

  #traced(protocol: Protocol, { model, version = '', arrival: { startedAt, headers, onTraced } }: Call): TracedCall | null {
    const traced = this.options.traces?.start({ protocol, model, version, headers, startedAt }) ?? null;
    if (traced !== null) onTraced?.(traced.traceresponse);
    return traced;
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
      this.#whenIdle.push(resolve);
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
