import type { InferAnswer } from '../inference.js';
import { predictOptions, type Serving } from '../serving.js';
import type { InferRequest } from './infer-request.js';

/** Answers a request that was read. */
export type Infer = (request: InferRequest, signal: AbortSignal, deadlineMs: number | undefined) => Promise<InferAnswer>;

export const inference =
  (serving: Serving): Infer =>
  ({ model, version, tensors, outputs, parameters: { timeout, items, priority } }, signal, deadlineMs) =>
    serving.infer('grpc', {
      ...{ model, version, tensors, items, outputs },
      options: predictOptions({ timeouts: [timeout === undefined ? undefined : timeout / 1000, deadlineMs], priority, signal }),
    });
