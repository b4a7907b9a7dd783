import { checkEndpoints, type Plan } from '../../plan/file/plan.js';
import type { Manifest } from './document.js';
import { mainKeysSecret, mainManifests } from './main-shards.js';
import { metadata } from './metadata.js';
import { monitorManifests, networkManifests } from './network.js';
import { checkOptions, type KubernetesOptions } from './options.js';
import { labelsOf, PORTS, podSettings } from './pod.js';
import { shardKeysSecret, shardManifests, shardService } from './shards.js';

/** The plan as it is deployed: an endpoint for each shard, the name of its Service, which leads to all replicas that are ready. */
export function deployedPlan(plan: Plan, { name, namespace }: KubernetesOptions): Plan {
  const host = (shard: string): string => `${shardService(name, shard)}${namespace === null ? '' : `.${namespace}.svc`}`;
  return { ...plan, shards: plan.shards.map((shard) => ({ ...shard, endpoints: [`tcp://${host(shard.name)}:${PORTS.shard}`] })) };
}

/** All that a cluster needs to serve a plan, in the order in which it is to be applied. Placement, restarts and roll-outs are Kubernetes'. */
export function manifestsOf(plan: Plan, options: KubernetesOptions): Manifest[] {
  checkOptions(options);
  const deployed = deployedPlan(plan, options);
  checkEndpoints(deployed);
  const settings = podSettings(options);
  return [
    planManifest(deployed, options),
    ...secretManifests(options),
    // How many replicas there are is what the plan that is given says.
    ...shardManifests(plan, options, settings),
    ...mainManifests(plan, options, settings),
    ...networkManifests(options),
    ...monitorManifests(options),
  ];
}

function planManifest(deployed: Plan, options: KubernetesOptions): Manifest {
  const { name } = options;
  return {
    file: 'plan.yaml',
    object: {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: metadata(`${name}-plan`, { 'app.kubernetes.io/name': 'terabag', 'app.kubernetes.io/instance': name }, options),
      data: { 'plan.json': `${JSON.stringify(deployed, null, 2)}\n` },
    },
  };
}

function secretManifests(options: KubernetesOptions): Manifest[] {
  const { name, keys } = options;
  if (keys.kind !== 'files') return [];
  const { shardsKey, shardsPublic, mainKey, mainPublic } = keys.texts;
  const secret = (secretName: string, component: 'shard' | 'main', stringData: Readonly<Record<string, string>>): Manifest => ({
    file: 'secrets.yaml',
    secret: true,
    object: {
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: metadata(secretName, labelsOf(name, component), options),
      type: 'Opaque',
      stringData,
    },
  });
  return [
    secret(shardKeysSecret(name), 'shard', { 'shard.key': shardsKey, 'main.pub': mainPublic }),
    secret(mainKeysSecret(name), 'main', { 'main.key': mainKey, 'shards.pub': shardsPublic }),
  ];
}
