import type { InferAnswer } from '../inference.js';
import { predictOptions, type Serving } from '../serving.js';
import type { CallContext } from './call.js';
import type { InferRequest } from './infer-request.js';

/** Answers a request that was read. */
export type Infer = (request: InferRequest, of: CallContext) => Promise<InferAnswer>;

export const inference =
  (serving: Serving): Infer =>
  ({ model, version, tensors, outputs, parameters: { timeout, items, priority } }, { signal, deadlineMs, startedAt, headers, caller }) =>
    serving.infer('grpc', {
      ...{ model, version, tensors, items, outputs },
      options: predictOptions({ timeouts: [timeout === undefined ? undefined : timeout / 1000, deadlineMs], priority, caller, signal }),
      arrival: { startedAt, headers },
    });
