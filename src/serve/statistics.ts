/** Calls and the nanoseconds that they took, as the statistics extension of the Open Inference Protocol tells them. */
export interface Duration {
  readonly count: number;
  readonly ns: number;
}

/** Of one model version since it was first served, also across reloads; only grows. */
export interface ModelStatistics {
  readonly name: string;
  readonly version: string;
  /** Ms since 1970 of the latest request; 0 before the first. */
  readonly last_inference: number;
  /** Items of requests that succeeded. */
  readonly inference_count: number;
  /** Requests that succeeded. */
  readonly execution_count: number;
  readonly inference_stats: Readonly<Record<'success' | 'fail' | 'queue' | 'compute_input' | 'compute_infer' | 'compute_output', Duration>>;
}

/** Of two processes that serve the same version. */
export function sumStatistics(a: ModelStatistics, b: ModelStatistics): ModelStatistics {
  const sum = (of: keyof ModelStatistics['inference_stats']): Duration => {
    const [x, y] = [a.inference_stats[of], b.inference_stats[of]];
    return { count: x.count + y.count, ns: x.ns + y.ns };
  };
  return {
    ...{ name: a.name, version: a.version, last_inference: Math.max(a.last_inference, b.last_inference) },
    inference_count: a.inference_count + b.inference_count,
    execution_count: a.execution_count + b.execution_count,
    inference_stats: {
      ...{ success: sum('success'), fail: sum('fail'), queue: sum('queue') },
      ...{ compute_input: sum('compute_input'), compute_infer: sum('compute_infer'), compute_output: sum('compute_output') },
    },
  };
}

export class StatisticsCounter {
  #lastInference = 0;
  #items = 0;
  readonly #success = { count: 0, ns: 0 };
  readonly #fail = { count: 0, ns: 0 };
  /** From the request's tensors to its call of predict, and of predict; of requests that succeeded. */
  #inputNs = 0;
  #inferNs = 0;

  succeeded(items: number, inputMs: number, inferMs: number): void {
    this.#lastInference = Date.now();
    this.#items += items;
    this.#success.count++;
    this.#success.ns += nanoseconds(inputMs + inferMs);
    this.#inputNs += nanoseconds(inputMs);
    this.#inferNs += nanoseconds(inferMs);
  }

  failed(ms: number): void {
    this.#lastInference = Date.now();
    this.#fail.count++;
    this.#fail.ns += nanoseconds(ms);
  }

  statistics(name: string, version: string): ModelStatistics {
    const { count } = this.#success;
    return {
      ...{ name, version, last_inference: this.#lastInference, inference_count: this.#items, execution_count: count },
      inference_stats: {
        ...{ success: { ...this.#success }, fail: { ...this.#fail }, queue: { count, ns: 0 } },
        ...{ compute_input: { count, ns: this.#inputNs }, compute_infer: { count, ns: this.#inferNs }, compute_output: { count, ns: 0 } },
      },
    };
  }
}

const nanoseconds = (ms: number): number => Math.round(ms * 1e6);
