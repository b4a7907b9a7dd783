import { readFileSync } from 'node:fs';
import { openedOf } from './inference.js';
import type { Repository } from './repository.js';
import type { ServedModel } from './served-model.js';
import type { TensorSpec } from './tensors/signature.js';

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string };

export const PLATFORM = 'terabag';

/** What the server is, and which extensions of the protocol it has. */
export const SERVER_METADATA = {
  name: PLATFORM,
  version,
  extensions: ['binary_tensor_data', 'model_repository', 'model_configuration', 'parameters', 'statistics'],
} as const;

/** Inputs and outputs of a version, which has to be READY, and the versions that there are. */
export function modelMetadata(repository: Repository, model: ServedModel) {
  const { signature } = openedOf(model);
  const plain = ({ name, datatype, shape }: TensorSpec) => ({ name, datatype, shape });
  return {
    name: model.name,
    versions: repository
      .versions(model.name)
      .map((each) => each.version)
      .reverse(),
    platform: PLATFORM,
    inputs: signature.inputs.map(plain),
    outputs: signature.outputs.map(plain),
  };
}

/** In the words of Triton's model configuration, as its clients read it. There is no batch dim: lengths say how many bags there are. */
export function modelConfig(model: ServedModel) {
  const { signature } = openedOf(model);
  const dims = ({ name, datatype, shape }: TensorSpec) => ({ name, data_type: `TYPE_${datatype}`, dims: shape });
  return {
    name: model.name,
    ...{ platform: PLATFORM, backend: PLATFORM, runtime: '' },
    version_policy: { all: {} },
    max_batch_size: 0,
    input: signature.inputs.map((spec) => ({ ...dims(spec), optional: spec.optional === true })),
    output: signature.outputs.map(dims),
    ...{ instance_group: [], default_model_filename: 'model.json', parameters: {} },
  };
}
