import type { Plan } from '../../plan/file/plan.js';
import type { DeployFile, Manifest } from './document.js';
import { manifestsOf } from './manifests.js';
import type { KubernetesOptions } from './options.js';
import { type Dialect, toYaml } from './yaml.js';

/** Settings are what their defaults are. */
const PLAIN: Dialect = {
  setting: () => null,
  items: () => null,
  when: ({ setting, is }) => setting.value === is,
  text: (text) => text,
};

/** Manifests for kubectl apply -f. What needs kinds of the Prometheus operator is in a directory of its own. */
export const kubernetesFiles = (plan: Plan, options: KubernetesOptions): DeployFile[] =>
  filesOf(manifestsOf(plan, options), ({ object }) => toYaml(object, PLAIN));

/** Manifests of one file follow one another in it. */
export function filesOf(manifests: readonly Manifest[], write: (manifest: Manifest) => string): DeployFile[] {
  const files = new Map<string, { readonly secret: boolean; readonly texts: string[] }>();
  for (const manifest of manifests) {
    const { file, secret = false } = manifest;
    const { texts } = files.get(file) ?? { texts: [] };
    files.set(file, { secret, texts: [...texts, write(manifest)] });
  }
  return [...files].map(([path, { secret, texts }]) => ({ path, text: texts.join('---\n'), ...(secret && { secret }) }));
}
