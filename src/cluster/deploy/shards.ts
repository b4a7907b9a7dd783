import type { Plan } from '../../plan/file/plan.js';
import { type Manifest, type NodeMap, Setting } from './document.js';
import { startSeconds } from './memory.js';
import { metadata, planAnnotation } from './metadata.js';
import { objectName } from './names.js';
import { heldBytesOf, type KubernetesOptions } from './options.js';
import {
  acrossZones,
  apart,
  bundleDirOf,
  httpProbe,
  keyFile,
  keysMount,
  labelsOf,
  PLAN_FILE,
  PORTS,
  type PodSettings,
  placeSettings,
  podSpec,
} from './pod.js';

export const shardKeysSecret = (name: string): string => `${name}-shard-keys`;

/** Requests for a shard go where this name leads: to all its pods that are ready. */
export const shardService = (name: string, shard: string): string => objectName(name, shard);

const PROBE_S = 5;

/** A StatefulSet for each shard, a headless Service whose name is the plan's endpoint, and a PodDisruptionBudget. */
export function shardManifests(plan: Plan, options: KubernetesOptions, settings: PodSettings): Manifest[] {
  return plan.shards.flatMap(({ name: shard, endpoints }) => {
    const service = shardService(options.name, shard);
    const file = `${service.slice(options.name.length + 1).replace(/^(?!shard-)/, 'shard-')}.yaml`;
    const labels = labelsOf(options.name, 'shard', { 'terabag/shard': service });
    const replicas = new Setting(['shards', shard, 'replicas'], options.replicas ?? endpoints.length, 'Each holds all of the shard.');
    return [
      { file, object: headlessService(service, labels, options) },
      { file, object: statefulSet({ plan, shard, service, labels, replicas }, options, settings) },
      { file, object: disruptionBudget(service, labels, options) },
    ];
  });
}

function headlessService(service: string, labels: NodeMap, options: KubernetesOptions): NodeMap {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: metadata(service, labels, options),
    spec: {
      clusterIP: 'None',
      selector: labels,
      ports: [
        { name: 'terabag', port: PORTS.shard, targetPort: 'terabag' },
        { name: 'metrics', port: PORTS.metrics, targetPort: 'metrics' },
      ],
    },
  };
}

interface ShardSet {
  readonly plan: Plan;
  readonly shard: string;
  readonly service: string;
  readonly labels: NodeMap;
  readonly replicas: Setting<number>;
}

/** Main shards resolve names anew within 6 s: a pod that is new has to be known before the next one ends. */
const KNOWN_S = 15;

function statefulSet({ plan, shard, service, labels, replicas }: ShardSet, options: KubernetesOptions, settings: PodSettings): NodeMap {
  const { bundle, keys, residency, verify, drainMs } = options;
  const held = heldBytesOf(plan, shard);
  const withClaims = bundle.kind === 'image' && bundle.storageClass !== null;
  const security = keys.kind === 'none' ? ['--insecure'] : ['--key', keyFile('shard.key'), '--allow', keyFile('main.pub')];
  return {
    apiVersion: 'apps/v1',
    kind: 'StatefulSet',
    metadata: metadata(service, labels, options),
    spec: {
      serviceName: service,
      replicas,
      // Of one shard, pods do not wait for each other at the start; they are replaced one at a time all the same.
      podManagementPolicy: 'Parallel',
      minReadySeconds: KNOWN_S,
      selector: { matchLabels: labels },
      template: {
        metadata: { labels, annotations: planAnnotation(plan) },
        spec: podSpec(
          {
            shard,
            command: 'shard',
            args: [
              ...['shard', PLAN_FILE, '--name', shard, '--bundle', bundleDirOf(bundle, shard)],
              ...['--listen', `tcp://*:${PORTS.shard}`, '--metrics', `0.0.0.0:${PORTS.metrics}`],
              ...['--residency', residency, '--verify', verify, '--drain', `${drainMs}ms`, ...security],
            ],
            ports: [
              { name: 'terabag', containerPort: PORTS.shard },
              { name: 'metrics', containerPort: PORTS.metrics },
            ],
            probes: {
              startupProbe: httpProbe('ready', { periodSeconds: PROBE_S, failureThreshold: Math.ceil(startSeconds(held ?? 0) / PROBE_S) }),
              readinessProbe: httpProbe('ready', { periodSeconds: PROBE_S, timeoutSeconds: 2, failureThreshold: 2 }),
              livenessProbe: httpProbe('live', { periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6 }),
            },
            place: placeSettings(['shards', shard], '1', held),
            residency,
            secrets: keys.kind === 'none' ? [] : [keysMount(shardKeysSecret(options.name))],
            bundleVolume: withClaims ? null : bundleVolume(options, settings),
            drainS: Math.ceil(drainMs / 1000),
            affinity: apart(labels),
            spread: acrossZones(labels),
          },
          settings,
          options,
        ),
      },
      volumeClaimTemplates: withClaims
        ? [{ metadata: { name: 'bundle', labels }, spec: claimSpec(bundle.storageClass, ['shards', shard], held) }]
        : undefined,
      persistentVolumeClaimRetentionPolicy: withClaims ? { whenDeleted: 'Delete', whenScaled: 'Delete' } : undefined,
    },
  };
}

/** A volume that is not a StatefulSet's own. */
export function bundleVolume({ bundle }: KubernetesOptions, { claim }: PodSettings): NodeMap {
  if (bundle.kind === 'claim' && claim !== null) return { name: 'bundle', persistentVolumeClaim: { claimName: claim, readOnly: true } };
  return { name: 'bundle', emptyDir: {} };
}

/** For tables and weights, and as much again of what an image may bring besides, or of a version before. */
const STORAGE_SHARE = 2;
const UNKNOWN_STORAGE = '100Gi';

export function claimSpec(storageClass: string | null, path: readonly string[], heldBytes: number | null): NodeMap {
  const size = heldBytes === null ? UNKNOWN_STORAGE : `${Math.max(1, Math.ceil((heldBytes * STORAGE_SHARE) / 1024 ** 3))}Gi`;
  return {
    accessModes: ['ReadWriteOnce'],
    storageClassName: new Setting(['bundle', 'storageClass'], storageClass ?? '', 'Of the volumes that /bundle is filled on.'),
    resources: { requests: { storage: new Setting([...path, 'storage'], size, '') } },
  };
}

export function disruptionBudget(name: string, labels: NodeMap, options: KubernetesOptions): NodeMap {
  return {
    apiVersion: 'policy/v1',
    kind: 'PodDisruptionBudget',
    metadata: metadata(name, labels, options),
    spec: { maxUnavailable: 1, unhealthyPodEvictionPolicy: 'AlwaysAllow', selector: { matchLabels: labels } },
  };
}
