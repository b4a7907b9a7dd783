import type { Plan } from '../../plan/file/plan.js';
import { Items, type Manifest, type NodeMap, type Plain, Setting, When } from './document.js';
import { startSeconds } from './memory.js';
import { metadata, planAnnotation } from './metadata.js';
import { heldBytesOf, type KubernetesOptions, MAIN } from './options.js';
import {
  acrossZones,
  bundleDirOf,
  httpProbe,
  keyFile,
  keysMount,
  labelsOf,
  PLAN_FILE,
  PORTS,
  type PodParts,
  type PodSettings,
  placeSettings,
  podSpec,
} from './pod.js';
import { bundleVolume, claimSpec, disruptionBudget } from './shards.js';

export const mainKeysSecret = (name: string): string => `${name}-main-keys`;
export const mainName = (name: string): string => `${name}-${MAIN}`;

const FILE = 'main.yaml';
const TLS_DIR = '/etc/terabag/tls';
const TOKENS_DIR = '/etc/terabag/tokens';
/** Beyond the time in which it still takes requests: for those in flight, which nothing cuts short. */
const IN_FLIGHT_S = 30;
const PROBE_S = 5;

/** A Deployment of main shards behind a Service, with autoscaling and a PodDisruptionBudget. */
export function mainManifests(plan: Plan, options: KubernetesOptions, settings: PodSettings): Manifest[] {
  const name = mainName(options.name);
  const labels = labelsOf(options.name, 'main');
  const scales = new Setting(['main', 'autoscaling', 'enabled'], true, 'Else there are main.replicas.');
  return [
    { file: FILE, object: deployment(plan, name, labels, scales, options, settings) },
    { file: FILE, object: service(name, labels, options) },
    { file: FILE, object: autoscaler(name, labels, options), when: scales },
    { file: FILE, object: disruptionBudget(name, labels, options) },
  ];
}

function deployment(
  plan: Plan,
  name: string,
  labels: NodeMap,
  scales: Setting<boolean>,
  options: KubernetesOptions,
  settings: PodSettings,
): NodeMap {
  const { keys, tlsSecret, tokenSecret, bundle, verify, drainMs } = options;
  const held = heldBytesOf(plan, MAIN);
  const secrets: PodParts['secrets'] = [
    ...(keys.kind === 'none' ? [] : [keysMount(mainKeysSecret(options.name))]),
    ...(tlsSecret === null ? [] : [{ volume: 'tls', secret: tlsSecret, at: TLS_DIR }]),
    ...(tokenSecret === null ? [] : [{ volume: 'tokens', secret: tokenSecret, at: TOKENS_DIR }]),
  ];
  return {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: metadata(name, labels, options),
    spec: {
      // What scales them has the say else, whenever this is applied.
      replicas: new When(scales, false, new Setting(['main', 'replicas'], 2, 'Without autoscaling.')),
      strategy: { type: 'RollingUpdate', rollingUpdate: { maxUnavailable: 0, maxSurge: 1 } },
      selector: { matchLabels: labels },
      template: {
        metadata: { labels, annotations: planAnnotation(plan) },
        spec: podSpec(
          {
            shard: MAIN,
            command: 'serve',
            args: [
              ...['serve', bundleDirOf(bundle, MAIN), '--plan', PLAN_FILE, '--verify', verify, '--drain', `${drainMs}ms`],
              ...['--http', `0.0.0.0:${PORTS.http}`, '--grpc', `0.0.0.0:${PORTS.grpc}`, '--metrics', `0.0.0.0:${PORTS.metrics}`],
              ...(keys.kind === 'none' ? [] : ['--key', keyFile('main.key'), '--shard-key', keyFile('shards.pub')]),
              ...(tlsSecret === null ? [] : ['--tls-cert', `${TLS_DIR}/tls.crt`, '--tls-key', `${TLS_DIR}/tls.key`]),
              ...(tokenSecret === null ? [] : ['--token-file', `${TOKENS_DIR}/tokens`]),
              new Items(new Setting<readonly Plain[]>(['main', 'args'], [], 'Further ones of terabag serve, such as ["--workers", "4"].')),
            ],
            ports: [
              { name: 'http', containerPort: PORTS.http },
              { name: 'grpc', containerPort: PORTS.grpc },
              { name: 'metrics', containerPort: PORTS.metrics },
            ],
            probes: {
              startupProbe: httpProbe('live', { periodSeconds: PROBE_S, failureThreshold: Math.ceil(startSeconds(held ?? 0) / PROBE_S) }),
              readinessProbe: httpProbe('ready', { periodSeconds: PROBE_S, timeoutSeconds: 2, failureThreshold: 2 }),
              livenessProbe: httpProbe('live', { periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6 }),
            },
            place: placeSettings(['main'], '2', held),
            residency: 'populate',
            secrets,
            bundleVolume: mainVolume(options, settings, held),
            drainS: Math.ceil(drainMs / 1000) + IN_FLIGHT_S,
            affinity: undefined,
            spread: acrossZones(labels),
          },
          settings,
          options,
        ),
      },
    },
  };
}

/** A Deployment has no claims of its own: where there is a storage class, a volume lives as long as its pod. */
function mainVolume(options: KubernetesOptions, settings: PodSettings, held: number | null): NodeMap {
  const { bundle } = options;
  if (bundle.kind === 'claim' || bundle.storageClass === null) return bundleVolume(options, settings);
  return { name: 'bundle', ephemeral: { volumeClaimTemplate: { spec: claimSpec(bundle.storageClass, ['main'], held) } } };
}

function service(name: string, labels: NodeMap, options: KubernetesOptions): NodeMap {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: metadata(name, labels, options),
    spec: {
      type: new Setting(['main', 'service', 'type'], 'ClusterIP', ''),
      selector: labels,
      ports: [
        { name: 'http', port: PORTS.http, targetPort: 'http', appProtocol: options.tlsSecret === null ? 'http' : 'https' },
        // As meshes and gateways have it: gRPC keeps a connection for long, which only who knows it can spread.
        { name: 'grpc', port: PORTS.grpc, targetPort: 'grpc', appProtocol: options.tlsSecret === null ? 'kubernetes.io/h2c' : undefined },
      ],
    },
  };
}

const IDLE_S = 300;

function autoscaler(name: string, labels: NodeMap, options: KubernetesOptions): NodeMap {
  const of = (field: string): readonly string[] => ['main', 'autoscaling', field];
  return {
    apiVersion: 'autoscaling/v2',
    kind: 'HorizontalPodAutoscaler',
    metadata: metadata(name, labels, options),
    spec: {
      scaleTargetRef: { apiVersion: 'apps/v1', kind: 'Deployment', name },
      minReplicas: new Setting(of('minReplicas'), 2, ''),
      maxReplicas: new Setting(of('maxReplicas'), 10, ''),
      metrics: [
        {
          type: 'Resource',
          resource: {
            name: 'cpu',
            target: { type: 'Utilization', averageUtilization: new Setting(of('cpuPercent'), 60, 'Of the CPUs that are asked for.') },
          },
        },
      ],
      behavior: { scaleDown: { stabilizationWindowSeconds: IDLE_S } },
    },
  };
}
