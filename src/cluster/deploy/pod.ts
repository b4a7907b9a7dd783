import type { Residency } from '../../engine/residency.js';
import { type Node, type NodeMap, type Plain, Setting } from './document.js';
import { mebibytes, memoryNeeds } from './memory.js';
import type { BundleSource, KubernetesOptions } from './options.js';

/** Of the image, and of files that are mounted. */
export const USER = 1000;
export const PORTS = { shard: 7400, http: 8000, grpc: 8001, metrics: 9400 } as const;
/** Where a container finds things. */
export const PLAN_FILE = '/etc/terabag/plan.json';
const KEYS_DIR = '/etc/terabag/keys';
const PUBLISHED_DIR = '/published';
const BUNDLE_DIR = '/bundle';

/** Long enough for whoever asks a pod to see that it is gone: names are cached for 5 s and resolved anew within 6 s. */
export const LEAVE_S = 15;
/** Beyond what draining may take. */
export const END_S = 10;

export const labelsOf = (name: string, component: 'shard' | 'main', more: NodeMap = {}): NodeMap => ({
  'app.kubernetes.io/name': 'terabag',
  'app.kubernetes.io/instance': name,
  'app.kubernetes.io/component': component,
  ...more,
});

/** Settings that all pods share. */
export interface PodSettings {
  readonly image: Setting<string>;
  readonly pullPolicy: Setting<string>;
  readonly pullSecrets: Setting<readonly Plain[]>;
  readonly serviceAccount: Setting<string>;
  readonly claim: Setting<string> | null;
  readonly bundleImage: Setting<string> | null;
  readonly bundleCommand: Setting<readonly Plain[]> | null;
}

export function podSettings({ image, bundle }: KubernetesOptions): PodSettings {
  return {
    image: new Setting(['image', 'reference'], image, 'Image of Terabag.'),
    pullPolicy: new Setting(['image', 'pullPolicy'], 'IfNotPresent', ''),
    pullSecrets: new Setting<readonly Plain[]>(['image', 'pullSecrets'], [], 'Such as [{name: registry}].'),
    serviceAccount: new Setting(
      ['serviceAccount'],
      'default',
      'Of all pods, for identities of a cloud; no token of Kubernetes is mounted.',
    ),
    claim: bundle.kind === 'claim' ? new Setting(['bundle', 'claim'], bundle.claim, CLAIM) : null,
    bundleImage: bundle.kind === 'image' ? new Setting(['bundle', 'image'], bundle.image, 'Runs first, and fills /bundle.') : null,
    bundleCommand:
      bundle.kind === 'image'
        ? new Setting<readonly Plain[]>(['bundle', 'command'], bundle.command, '$(TERABAG_SHARD) is the shard, or main.')
        : null,
  };
}

const CLAIM = 'PersistentVolumeClaim of what terabag publish wrote: a directory for each shard, and main. It is mounted read-only.';

/** Settings of one kind of pod, under a path of values.yaml. */
export interface PlaceSettings {
  readonly resources: Setting;
  readonly nodeSelector: Setting;
  readonly tolerations: Setting<readonly Plain[]>;
  readonly env: Setting<readonly Plain[]>;
}

/** CPUs are asked for, not limited: throttling makes the slowest requests slower. */
export function placeSettings(path: readonly string[], cpu: string, heldBytes: number | null): PlaceSettings {
  const memory = heldBytes === null ? null : memoryNeeds(heldBytes);
  const resources: Plain = {
    requests: { cpu, ...(memory && { memory: mebibytes(memory.request) }) },
    ...(memory && { limits: { memory: mebibytes(memory.limit) } }),
  };
  const held = heldBytes === null ? 'The plan does not say how many bytes it holds: give it memory.' : `It holds ${heldBytes} bytes.`;
  return {
    resources: new Setting([...path, 'resources'], resources, held),
    nodeSelector: new Setting<Plain>([...path, 'nodeSelector'], {}, ''),
    tolerations: new Setting<readonly Plain[]>([...path, 'tolerations'], [], ''),
    env: new Setting<readonly Plain[]>(
      [...path, 'env'],
      [],
      'Variables (docs/operations.md), such as [{name: TERABAG_THREADS, value: "8"}].',
    ),
  };
}

/** What differs between a shard's pod and main's. */
export interface PodParts {
  /** Name in the plan. */
  readonly shard: string;
  readonly command: 'shard' | 'serve';
  readonly args: readonly Node[];
  readonly ports: readonly { readonly name: string; readonly containerPort: number }[];
  readonly probes: NodeMap;
  readonly place: PlaceSettings;
  readonly residency: Residency;
  /** Secrets, by the directory that they are mounted at. */
  readonly secrets: readonly { readonly volume: string; readonly secret: string; readonly at: string }[];
  readonly bundleVolume: Node | null;
  readonly drainS: number;
  readonly affinity: NodeMap | undefined;
  readonly spread: Node;
}

export function podSpec(parts: PodParts, settings: PodSettings, options: KubernetesOptions): NodeMap {
  const { shard, place, secrets, bundleVolume } = parts;
  const { bundleImage, bundleCommand } = settings;
  const env = [{ name: 'TERABAG_SHARD', value: shard }];
  const bundleMount = { name: 'bundle', mountPath: bundleImage === null ? PUBLISHED_DIR : BUNDLE_DIR };
  return {
    automountServiceAccountToken: false,
    enableServiceLinks: false,
    serviceAccountName: settings.serviceAccount,
    terminationGracePeriodSeconds: LEAVE_S + parts.drainS + END_S,
    securityContext: {
      ...userOf(parts.residency),
      fsGroup: USER,
      fsGroupChangePolicy: 'OnRootMismatch',
      seccompProfile: { type: 'RuntimeDefault' },
    },
    imagePullSecrets: settings.pullSecrets,
    nodeSelector: place.nodeSelector,
    tolerations: place.tolerations,
    affinity: parts.affinity,
    topologySpreadConstraints: parts.spread,
    initContainers:
      bundleImage === null || bundleCommand === null
        ? undefined
        : [
            {
              name: 'bundle',
              image: bundleImage,
              imagePullPolicy: settings.pullPolicy,
              command: bundleCommand,
              env,
              resources: { requests: { cpu: '100m', memory: '128Mi' } },
              securityContext: containerSecurity('map'),
              volumeMounts: [bundleMount],
            },
          ],
    containers: [
      {
        name: parts.command === 'shard' ? 'shard' : 'main',
        image: settings.image,
        imagePullPolicy: settings.pullPolicy,
        args: parts.args,
        env: place.env,
        ports: parts.ports,
        resources: place.resources,
        securityContext: containerSecurity(parts.residency),
        lifecycle: { preStop: { exec: { command: ['sleep', String(LEAVE_S)] } } },
        ...parts.probes,
        volumeMounts: [
          { name: 'plan', mountPath: '/etc/terabag/plan.json', subPath: 'plan.json', readOnly: true },
          { ...bundleMount, readOnly: true },
          ...secrets.map(({ volume, at }) => ({ name: volume, mountPath: at, readOnly: true })),
        ],
      },
    ],
    volumes: [
      { name: 'plan', configMap: { name: `${options.name}-plan` } },
      ...(bundleVolume === null ? [] : [bundleVolume]),
      ...secrets.map(({ volume, secret }) => ({ name: volume, secret: { secretName: secret, defaultMode: 0o440 } })),
    ],
  };
}

/**
 * Kubernetes gives capabilities to root alone: a container of another user has those that are added in its bounding set, but not in effect. Locking
 * needs one, so that it runs as root with no other.
 */
const userOf = (residency: Residency): NodeMap =>
  residency === 'lock' ? { runAsUser: 0, runAsGroup: USER } : { runAsNonRoot: true, runAsUser: USER, runAsGroup: USER };

const containerSecurity = (residency: Residency): NodeMap => ({
  allowPrivilegeEscalation: false,
  readOnlyRootFilesystem: true,
  capabilities: { drop: ['ALL'], ...(residency === 'lock' && { add: ['IPC_LOCK'] }) },
});

/** The directory that a container opens. */
export const bundleDirOf = ({ kind }: BundleSource, shard: string): string => (kind === 'claim' ? `${PUBLISHED_DIR}/${shard}` : BUNDLE_DIR);

export const httpProbe = (path: 'live' | 'ready', more: { readonly [field: string]: number }): NodeMap => ({
  httpGet: { path: `/v2/health/${path}`, port: 'metrics' },
  ...more,
});

/** A pod of the same labels on the same host is none to stand beside. */
export const apart = (labels: NodeMap): NodeMap => ({
  podAntiAffinity: {
    requiredDuringSchedulingIgnoredDuringExecution: [{ labelSelector: { matchLabels: labels }, topologyKey: 'kubernetes.io/hostname' }],
  },
});

/** Zones are shared out as evenly as they can be. */
export const acrossZones = (labels: NodeMap): Node => [
  {
    maxSkew: 1,
    topologyKey: 'topology.kubernetes.io/zone',
    whenUnsatisfiable: 'ScheduleAnyway',
    labelSelector: { matchLabels: labels },
  },
];

export const keysMount = (secret: string): PodParts['secrets'][number] => ({ volume: 'keys', secret, at: KEYS_DIR });
export const keyFile = (name: string): string => `${KEYS_DIR}/${name}`;
