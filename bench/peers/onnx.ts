import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Absent, Contender } from '../suite.js';
import { PEERS_DIR, python, startPeer } from './process.js';

interface Feed {
  readonly name: string;
  readonly type: 'float32' | 'int64';
  readonly shape: readonly number[];
  readonly rows?: number;
}

interface OnnxModel {
  readonly path: string;
  readonly [field: string]: unknown;
}

/** onnxruntime-node on a model that the onnx package of the torch environment writes. */
export function startOnnx(model: OnnxModel, feeds: readonly Feed[]): Promise<Contender | Absent> {
  return start('onnx_models.py', model, { feeds });
}

/** The same on the model of a bundle, which PyTorch exports, and on a file of requests. */
export function startOnnxOfBundle(
  model: OnnxModel & { readonly bundle: string; readonly requests: string; readonly batch: number },
): Promise<Contender | Absent> {
  return start('onnx_bundle.py', model, { requests: model.requests });
}

async function start(exporter: string, model: OnnxModel, inputs: object): Promise<Contender | Absent> {
  const [program = '', script = ''] = python(exporter, 'torch');
  const directory = join(PEERS_DIR, 'ort');
  if (!existsSync(model.path)) {
    const written = spawnSync(program, [script, JSON.stringify(model)], { encoding: 'utf8' });
    if (written.status !== 0)
      return { peer: 'onnxruntime', note: `no model: ${(written.stderr ?? '').trim().split('\n').at(-1) ?? program}` };
  }
  const peer = join(import.meta.dirname, 'onnxruntime_peer.mjs');
  return startPeer('onnxruntime', [process.execPath, peer], { directory, path: model.path, ...inputs });
}
