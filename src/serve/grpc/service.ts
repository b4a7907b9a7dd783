import type { UntypedServiceImplementation } from '@grpc/grpc-js';
import { TerabagError } from '../../errors.js';
import { modelConfig, modelMetadata, SERVER_METADATA } from '../metadata.js';
import type { Serving } from '../serving.js';
import { jsonHandler, unaryHandler } from './call.js';
import { inference } from './infer.js';
import { writeInferAnswer } from './infer-answer.js';
import { readInferRequest } from './infer-request.js';
import type { OpenCalls } from './open-calls.js';
import { GRPCInferenceService } from './proto/open_inference_pb.js';
import { streamHandler } from './stream-infer.js';

/** The methods of inference.GRPCInferenceService. */
export function inferenceMethods(serving: Serving, open: OpenCalls): UntypedServiceImplementation {
  const { repository } = serving;
  const { method } = GRPCInferenceService;
  const unsupported = (what: string) =>
    unaryHandler(() => {
      throw new TerabagError('unsupported', `${what} is not supported`);
    });
  const shared = unsupported('shared memory');
  const infer = inference(serving);
  return {
    ServerLive: jsonHandler(method.serverLive, () => ({ live: true })),
    ServerReady: jsonHandler(method.serverReady, () => ({ ready: serving.ready })),
    ModelReady: jsonHandler(method.modelReady, ({ name, version }) => ({ ready: modelReady(serving, name, version) })),
    ServerMetadata: jsonHandler(method.serverMetadata, () => SERVER_METADATA),
    ModelMetadata: jsonHandler(method.modelMetadata, ({ name, version }) => modelMetadata(repository, repository.model(name, version))),
    ModelInfer: unaryHandler(async (message, signal, deadlineMs) => {
      const request = readInferRequest(message.bytes, (bytes) => message.hold(bytes));
      return writeInferAnswer(request, await infer(request, signal, deadlineMs()));
    }),
    ModelStreamInfer: streamHandler(infer, open),
    ModelConfig: jsonHandler(method.modelConfig, ({ name, version }) => ({ config: modelConfig(repository.model(name, version)) })),
    ModelStatistics: jsonHandler(method.modelStatistics, async ({ name, version }) => ({
      model_stats: await serving.statistics(name, version),
    })),
    RepositoryIndex: jsonHandler(method.repositoryIndex, async ({ ready }) => {
      const models = await repository.index();
      return { models: ready ? models.filter(({ state }) => state === 'READY') : models };
    }),
    RepositoryModelLoad: jsonHandler(method.repositoryModelLoad, async ({ modelName }) => {
      await serving.changeRepository('load', modelName);
      return {};
    }),
    RepositoryModelUnload: jsonHandler(method.repositoryModelUnload, async ({ modelName }) => {
      await serving.changeRepository('unload', modelName);
      return {};
    }),
    SystemSharedMemoryStatus: shared,
    SystemSharedMemoryRegister: shared,
    SystemSharedMemoryUnregister: shared,
    CudaSharedMemoryStatus: shared,
    CudaSharedMemoryRegister: shared,
    CudaSharedMemoryUnregister: shared,
    TraceSetting: unsupported('the trace extension'),
    LogSettings: unsupported('the logging extension'),
  };
}

/** Also false of models that are not there: clients ask whether they may send, and take an error for one of the server. */
function modelReady({ repository, draining }: Serving, name: string, version: string): boolean {
  try {
    return repository.model(name, version).readiness().ready && !draining;
  } catch (error) {
    if (error instanceof TerabagError && error.code === 'not_found') return false;
    throw error;
  }
}
