import { type Manifest, type Plain, Setting } from './document.js';
import { mainName } from './main-shards.js';
import { metadata } from './metadata.js';
import type { KubernetesOptions } from './options.js';
import { labelsOf } from './pod.js';

const PROMETHEUS: Plain = [{ namespaceSelector: {}, podSelector: { matchLabels: { 'app.kubernetes.io/name': 'prometheus' } } }];

const tcp = (port: string): { protocol: string; port: string } => ({ protocol: 'TCP', port });

/** Only main reaches shards, only Prometheus (and main) what they say of themselves; shards call nobody. */
export function networkManifests(options: KubernetesOptions): Manifest[] {
  const { name, bundle } = options;
  const enabled = new Setting(['networkPolicy', 'enabled'], true, 'Without keys, these policies alone keep others from the shards.');
  const prometheus = new Setting<Plain>(['networkPolicy', 'prometheus'], PROMETHEUS, 'Who may scrape, as peers of a NetworkPolicy.');
  const [shards, mains] = [labelsOf(name, 'shard'), labelsOf(name, 'main')];
  const main = { podSelector: { matchLabels: mains } };
  const file = 'network-policy.yaml';
  // What fills a bundle may have to fetch it.
  const isClosed = bundle.kind === 'claim';
  return [
    {
      file,
      when: enabled,
      object: {
        apiVersion: 'networking.k8s.io/v1',
        kind: 'NetworkPolicy',
        metadata: metadata(`${name}-shards`, shards, options),
        spec: {
          podSelector: { matchLabels: shards },
          policyTypes: isClosed ? ['Ingress', 'Egress'] : ['Ingress'],
          ingress: [
            { from: [main], ports: [tcp('terabag'), tcp('metrics')] },
            { from: prometheus, ports: [tcp('metrics')] },
          ],
          egress: isClosed ? [] : undefined,
        },
      },
    },
    {
      file,
      when: enabled,
      object: {
        apiVersion: 'networking.k8s.io/v1',
        kind: 'NetworkPolicy',
        metadata: metadata(mainName(name), mains, options),
        spec: {
          podSelector: { matchLabels: mains },
          policyTypes: ['Ingress'],
          ingress: [{ ports: [tcp('http'), tcp('grpc')] }, { from: prometheus, ports: [tcp('metrics')] }],
        },
      },
    },
  ];
}

/** For the Prometheus operator, whose kinds a cluster may not have: a file of its own directory. */
export function monitorManifests(options: KubernetesOptions): Manifest[] {
  const { name } = options;
  const enabled = new Setting(['podMonitor', 'enabled'], false, 'For the Prometheus operator: needs its PodMonitor.');
  const labels = { 'app.kubernetes.io/name': 'terabag', 'app.kubernetes.io/instance': name };
  return [
    {
      file: `${MONITORING_DIR}/pod-monitor.yaml`,
      when: enabled,
      object: {
        apiVersion: 'monitoring.coreos.com/v1',
        kind: 'PodMonitor',
        metadata: metadata(name, labels, options),
        spec: {
          selector: { matchLabels: labels },
          podTargetLabels: ['app.kubernetes.io/component', 'terabag/shard'],
          podMetricsEndpoints: [
            {
              port: 'metrics',
              path: '/metrics',
              interval: new Setting(['podMonitor', 'interval'], '15s', ''),
            },
          ],
        },
      },
    },
  ];
}

/** kubectl apply -f of the directory above leaves it out. */
export const MONITORING_DIR = 'monitoring';
