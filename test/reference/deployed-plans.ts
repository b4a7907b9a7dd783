import type { Node, NodeMap, Plain } from '../../src/cluster/deploy/document.js';
import { Items, Setting, When } from '../../src/cluster/deploy/document.js';
import type { KeySource, KubernetesOptions } from '../../src/cluster/deploy/options.js';
import type { SystemdOptions } from '../../src/cluster/deploy/systemd.js';
import type { Plan } from '../../src/index.js';

const GIB = 1024 ** 3;

/** A plan of shards by the number of their replicas. Names of tables are what templates and YAML would take for their own. */
export function planOfShards(replicas: Readonly<Record<string, number>>): Plan {
  const shards = Object.entries(replicas).map(([name, count], at) => ({
    name,
    endpoints: Array.from({ length: count }, (_, replica) => `tcp://10.0.${at}.${replica + 1}:7400`),
  }));
  return {
    terabagPlan: 1,
    strategy: 'by hand',
    model: { name: 'ranking "{{ .Values.x }}"', version: '7', hash: 'a'.repeat(64) },
    shards,
    tables: shards.map(({ name }) => ({ table: `{{ of }} ${name}: #%$-`, parts: [name] })),
    bytes: Object.fromEntries([...shards.map(({ name }, at): [string, number] => [name, (at + 1) * 10 * GIB]), ['main', GIB / 2]]),
  };
}

export const ONE_SHARD = planOfShards({ 'shard-0': 1 });
export const REPLICATED = planOfShards({ 'shard-0': 2, 'shard-1': 3 });
/** Names that objects of Kubernetes cannot have, and one that a file of the manifests has. */
export const ODD_NAMES = planOfShards({ Shard_0: 1, 'shard.0': 2, plan: 1, [`9${'x'.repeat(127)}`]: 1 });
export const NO_SHARDS = planOfShards({});

const KEYS: KeySource = {
  kind: 'files',
  texts: {
    shardsKey: '# A key of terabag: keep it secret.\npublic {{a}}:#\nsecret @%$\n',
    shardsPublic: 'rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7 shards\n',
    mainKey: '# A key of terabag: keep it secret.\npublic b\nsecret c\n',
    mainPublic: '&*(<>)[]{}@%$# main\n',
  },
};

export const KUBERNETES: KubernetesOptions = {
  name: 'terabag',
  namespace: null,
  image: 'terabag:0.1.0',
  version: '0.1.0',
  replicas: null,
  residency: 'populate',
  verify: 'full',
  drainMs: 3_000,
  bundle: { kind: 'claim', claim: 'terabag-published' },
  keys: { kind: 'none' },
  tlsSecret: null,
  tokenSecret: null,
};
const FILLED = { kind: 'image', image: 'models:7', command: ['cp', '-R', '/published/$(TERABAG_SHARD)/.', '/bundle/'] } as const;

/** What is rendered in tests, by what it shows. */
export const RENDERINGS: Readonly<Record<string, { readonly plan: Plan; readonly options: KubernetesOptions }>> = {
  'one shard': { plan: ONE_SHARD, options: KUBERNETES },
  replicas: { plan: REPLICATED, options: { ...KUBERNETES, namespace: 'ranking' } },
  'keys, certificate and tokens': { plan: REPLICATED, options: { ...KUBERNETES, keys: KEYS, tlsSecret: 'cert', tokenSecret: 'tokens' } },
  'keys of others, locked memory': { plan: ONE_SHARD, options: { ...KUBERNETES, keys: { kind: 'secrets' }, residency: 'lock' } },
  'huge pages': { plan: ONE_SHARD, options: { ...KUBERNETES, residency: 'hugepages', verify: 'size' } },
  'an init container': { plan: REPLICATED, options: { ...KUBERNETES, bundle: { ...FILLED, storageClass: null } } },
  'an init container on volumes': { plan: REPLICATED, options: { ...KUBERNETES, bundle: { ...FILLED, storageClass: 'local' } } },
  'odd names': { plan: ODD_NAMES, options: { ...KUBERNETES, replicas: 4 } },
  'no shards': { plan: NO_SHARDS, options: KUBERNETES },
  'a plan without bytes': { plan: withoutBytes(REPLICATED), options: KUBERNETES },
};

function withoutBytes({ bytes: _, ...plan }: Plan): Plan {
  return plan;
}

export const SYSTEMD: SystemdOptions = {
  name: 'terabag',
  program: '/usr/bin/terabag',
  planPath: '/etc/terabag/plan.json',
  bundles: '/var/lib/terabag',
  keys: null,
  residency: 'populate',
  verify: 'full',
  drainMs: 3_000,
  metricsHost: '127.0.0.1',
  http: null,
  grpc: null,
};

/** With the defaults of all settings. */
export function plainOf(node: Node): Plain {
  if (node instanceof Setting) return plainOf(node.value);
  if (Array.isArray(node)) return node.flatMap((part: Node) => (part instanceof Items ? part.setting.value : [plainOf(part)]));
  if (node === null || typeof node !== 'object') return node;
  return Object.fromEntries(
    Object.entries(node as NodeMap).flatMap(([key, value]): [string, Plain][] => {
      if (value === undefined) return [];
      if (!(value instanceof When)) return [[key, plainOf(value)]];
      return value.setting.value === value.is ? [[key, plainOf(value.node)]] : [];
    }),
  );
}
