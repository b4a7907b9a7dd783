import { expect, test } from 'vitest';
import { kubernetesFiles } from '../../../../src/cluster/deploy/kubernetes.js';
import { deployedPlan, manifestsOf } from '../../../../src/cluster/deploy/manifests.js';
import { objectName } from '../../../../src/cluster/deploy/names.js';
import type { KubernetesOptions } from '../../../../src/cluster/deploy/options.js';
import { checkPlanShape, type Plan, planHashOf } from '../../../../src/plan/file/plan.js';
import { KUBERNETES, NO_SHARDS, ODD_NAMES, ONE_SHARD, plainOf, RENDERINGS, REPLICATED } from '../../../reference/deployed-plans.js';

// biome-ignore lint/suspicious/noExplicitAny: manifests are read as what they are, plain data.
type Any = any;

const objectsOf = (plan: Plan, options: Partial<KubernetesOptions> = {}): Any[] =>
  manifestsOf(plan, { ...KUBERNETES, ...options }).map(({ object }) => plainOf(object as never));
const find = (objects: readonly Any[], kind: string, name: string): Any =>
  objects.find((object) => object.kind === kind && object.metadata.name === name);
const containerOf = (object: Any): Any => object.spec.template.spec.containers[0];
const each = Object.entries(RENDERINGS).map(([what, rendering]) => ({ what, ...rendering }));

test.each(each)(
  '$what: objects have names of their own that Kubernetes takes, and selectors find the pods that are meant',
  ({ plan, options }) => {
    const objects = objectsOf(plan, options);
    const names = objects.map(({ kind, metadata }) => `${kind} ${metadata.name}`);
    expect(new Set(names).size).toBe(names.length);
    for (const { kind, metadata } of objects) {
      expect(metadata.name, kind).toMatch(/^[a-z]([a-z0-9-]*[a-z0-9])?$/);
      expect(metadata.name.length, kind).toBeLessThanOrEqual(52);
      for (const value of Object.values(metadata.labels)) expect(value).toMatch(/^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/);
      expect(metadata.namespace, kind).toBe(options.namespace ?? undefined);
    }
    const workloads = objects.filter(({ kind }) => kind === 'StatefulSet' || kind === 'Deployment');
    expect(workloads).toHaveLength(plan.shards.length + 1);
    const matches = (selector: Any, labels: Any): boolean => Object.entries(selector).every(([key, value]) => labels[key] === value);
    for (const workload of workloads) {
      const { matchLabels } = workload.spec.selector;
      for (const { metadata, spec } of workloads)
        expect(matches(matchLabels, spec.template.metadata.labels)).toBe(metadata.name === workload.metadata.name);
      const budget = find(objects, 'PodDisruptionBudget', workload.metadata.name);
      expect(budget.spec.selector.matchLabels).toEqual(matchLabels);
      expect(find(objects, 'Service', workload.metadata.name).spec.selector).toEqual(matchLabels);
    }
  },
);

test.each(each)(
  '$what: containers are not root but where memory is locked, write nothing, and have no capability besides',
  ({ plan, options }) => {
    for (const { kind, spec: workload } of objectsOf(plan, options)) {
      if (kind !== 'StatefulSet' && kind !== 'Deployment') continue;
      const { spec } = workload.template;
      const locks = options.residency === 'lock' && kind === 'StatefulSet';
      expect(spec.automountServiceAccountToken).toBe(false);
      expect(spec.securityContext).toMatchObject({
        seccompProfile: { type: 'RuntimeDefault' },
        runAsUser: locks ? 0 : 1000,
        fsGroup: 1000,
      });
      expect(spec.securityContext.runAsNonRoot).toBe(locks ? undefined : true);
      for (const container of [...spec.containers, ...(spec.initContainers ?? [])])
        expect(container.securityContext).toEqual({
          allowPrivilegeEscalation: false,
          readOnlyRootFilesystem: true,
          capabilities: { drop: ['ALL'], ...(locks && container.name === 'shard' && { add: ['IPC_LOCK'] }) },
        });
      const mounts = spec.containers[0].volumeMounts;
      expect(mounts.filter(({ readOnly }: Any) => readOnly !== true)).toEqual([]);
    }
  },
);

test('the plan of the ConfigMap leads to the Service of each shard, and is the same plan to all who compare it', () => {
  for (const [plan, namespace, host] of [
    [REPLICATED, null, 'terabag-shard-1'],
    [REPLICATED, 'ranking', 'terabag-shard-1.ranking.svc'],
  ] as const) {
    const objects = objectsOf(plan, { namespace });
    const text = find(objects, 'ConfigMap', 'terabag-plan').data['plan.json'];
    const deployed = JSON.parse(text) as Plan;
    checkPlanShape(deployed);
    expect(planHashOf(deployed)).toBe(planHashOf(plan));
    expect(deployed.shards[1]?.endpoints).toEqual([`tcp://${host}:7400`]);
    for (const { name } of plan.shards) {
      const service = find(objects, 'Service', `terabag-${name}`);
      expect(service.spec).toMatchObject({ clusterIP: 'None', ports: [{ port: 7400, targetPort: 'terabag' }, { port: 9400 }] });
      expect(find(objects, 'StatefulSet', `terabag-${name}`).spec.serviceName).toBe(`terabag-${name}`);
    }
  }
});

test('a shard has as many replicas as the plan has endpoints for it, or as is said, apart from each other', () => {
  const set = find(objectsOf(REPLICATED), 'StatefulSet', 'terabag-shard-1');
  expect(set.spec).toMatchObject({ replicas: 3, minReadySeconds: 15 });
  const { podAntiAffinity } = set.spec.template.spec.affinity;
  expect(podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution).toEqual([
    { labelSelector: set.spec.selector, topologyKey: 'kubernetes.io/hostname' },
  ]);
  expect(find(objectsOf(REPLICATED, { replicas: 5 }), 'StatefulSet', 'terabag-shard-1').spec.replicas).toBe(5);
});

test('commands are those of a shard and of main, which find what is mounted', () => {
  const objects = objectsOf(REPLICATED);
  const set = find(objects, 'StatefulSet', 'terabag-shard-1');
  expect(containerOf(set).args.join(' ')).toBe(
    'shard /etc/terabag/plan.json --name shard-1 --bundle /published/shard-1 --listen tcp://*:7400 --metrics 0.0.0.0:9400 --residency populate --verify full --drain 3000ms --insecure',
  );
  expect(containerOf(set).volumeMounts.map(({ mountPath }: Any) => mountPath)).toEqual(['/etc/terabag/plan.json', '/published']);
  const main = find(objects, 'Deployment', 'terabag-main');
  expect(containerOf(main).args.join(' ')).toBe(
    'serve /published/main --plan /etc/terabag/plan.json --verify full --drain 3000ms --http 0.0.0.0:8000 --grpc 0.0.0.0:8001 --metrics 0.0.0.0:9400',
  );
  expect(set.spec.template.spec.volumes).toContainEqual({
    name: 'bundle',
    persistentVolumeClaim: { claimName: 'terabag-published', readOnly: true },
  });
});

test('keys are mounted for their end alone, readable by its group alone, and nobody is let in without them', () => {
  const { plan, options } = RENDERINGS['keys, certificate and tokens'] as (typeof each)[number];
  const objects = objectsOf(plan, options);
  const set = find(objects, 'StatefulSet', 'terabag-shard-0');
  const args = containerOf(set).args.join(' ');
  expect(args).toMatch(/ --key \/etc\/terabag\/keys\/shard\.key --allow \/etc\/terabag\/keys\/main\.pub$/);
  expect(args).not.toContain('--insecure');
  const volume = { name: 'keys', secret: { secretName: 'terabag-shard-keys', defaultMode: 0o440 } };
  expect(set.spec.template.spec.volumes).toContainEqual(volume);
  const main = find(objects, 'Deployment', 'terabag-main');
  expect(containerOf(main).args.join(' ')).toMatch(
    / --key \/etc\/terabag\/keys\/main\.key --shard-key \/etc\/terabag\/keys\/shards\.pub --tls-cert \S+\/tls\.crt --tls-key \S+\/tls\.key --token-file \S+\/tokens$/,
  );
  const keys = options.keys.kind === 'files' ? options.keys.texts : null;
  expect(find(objects, 'Secret', 'terabag-shard-keys').stringData).toEqual({ 'shard.key': keys?.shardsKey, 'main.pub': keys?.mainPublic });
  expect(find(objects, 'Secret', 'terabag-main-keys').stringData).toEqual({ 'main.key': keys?.mainKey, 'shards.pub': keys?.shardsPublic });
  const files = kubernetesFiles(plan, options);
  expect(files.filter(({ secret }) => secret).map(({ path }) => path)).toEqual(['secrets.yaml']);
  for (const { path, text } of files) expect(text.includes('secret @%$'), path).toBe(path === 'secrets.yaml');

  const others = objectsOf(ONE_SHARD, { keys: { kind: 'secrets' } });
  expect(others.filter(({ kind }) => kind === 'Secret')).toEqual([]);
  expect(find(others, 'StatefulSet', 'terabag-shard-0').spec.template.spec.volumes).toContainEqual(volume);
});

test('memory and the time of a start follow from what the plan says is held', () => {
  const set = find(objectsOf(REPLICATED), 'StatefulSet', 'terabag-shard-1');
  // 20 GiB, a hundredth more, and 512 MiB; and what peers may take.
  const request = Math.ceil(20 * 1024 * 1.01) + 512;
  expect(containerOf(set).resources).toEqual({
    requests: { cpu: '1', memory: `${request}Mi` },
    limits: { memory: `${request + 1536}Mi` },
  });
  const { periodSeconds, failureThreshold } = containerOf(set).startupProbe;
  expect(periodSeconds * failureThreshold).toBeGreaterThanOrEqual(300 + (20 * 1024) / 100);
  const unknown = RENDERINGS['a plan without bytes'] as (typeof each)[number];
  expect(containerOf(find(objectsOf(unknown.plan), 'StatefulSet', 'terabag-shard-1')).resources).toEqual({ requests: { cpu: '1' } });
});

test('probes ask the listener of metrics; a pod that is to end is left before it drains, and has time for both', () => {
  const objects = objectsOf(REPLICATED, { drainMs: 7_000 });
  for (const [workload, drainS, startPath] of [
    [find(objects, 'StatefulSet', 'terabag-shard-0'), 7, 'ready'],
    [find(objects, 'Deployment', 'terabag-main'), 37, 'live'],
  ]) {
    const { startupProbe, readinessProbe, livenessProbe, lifecycle, ports } = containerOf(workload);
    expect(startupProbe.httpGet).toEqual({ path: `/v2/health/${startPath}`, port: 'metrics' });
    expect(readinessProbe.httpGet).toEqual({ path: '/v2/health/ready', port: 'metrics' });
    expect(livenessProbe.httpGet).toEqual({ path: '/v2/health/live', port: 'metrics' });
    expect(ports).toContainEqual({ name: 'metrics', containerPort: 9400 });
    const [, leaveS] = lifecycle.preStop.exec.command;
    // Names are resolved anew within 6 s, and cached for 5.
    expect(Number(leaveS)).toBeGreaterThan(11);
    expect(workload.spec.template.spec.terminationGracePeriodSeconds).toBeGreaterThan(Number(leaveS) + drainS);
  }
});

test('only main reaches shards, which call nobody; only Prometheus and main read what they say', () => {
  const objects = objectsOf(REPLICATED);
  const policy = find(objects, 'NetworkPolicy', 'terabag-shards').spec;
  const main = { podSelector: { matchLabels: find(objects, 'Deployment', 'terabag-main').spec.selector.matchLabels } };
  expect(policy.policyTypes).toEqual(['Ingress', 'Egress']);
  expect(policy.egress).toEqual([]);
  const [first, second, ...rest] = policy.ingress as Any[];
  expect(first).toEqual({
    from: [main],
    ports: [
      { protocol: 'TCP', port: 'terabag' },
      { protocol: 'TCP', port: 'metrics' },
    ],
  });
  expect(second).toMatchObject({
    from: [{ podSelector: { matchLabels: { 'app.kubernetes.io/name': 'prometheus' } } }],
    ports: [{ port: 'metrics' }],
  });
  expect(rest).toEqual([]);
  for (const { kind, spec } of objects)
    if (kind === 'StatefulSet') expect(spec.template.metadata.labels).toMatchObject(policy.podSelector.matchLabels);
  // What fills a bundle may have to fetch it.
  const filled = RENDERINGS['an init container'] as (typeof each)[number];
  expect(find(objectsOf(filled.plan, filled.options), 'NetworkPolicy', 'terabag-shards').spec.policyTypes).toEqual(['Ingress']);
});

test('a container that runs first fills the bundle, on the disk of the node or on volumes of a class', () => {
  const { plan, options } = RENDERINGS['an init container'] as (typeof each)[number];
  const set = find(objectsOf(plan, options), 'StatefulSet', 'terabag-shard-1');
  const { initContainers, volumes } = set.spec.template.spec;
  expect(initContainers).toMatchObject([
    { image: 'models:7', env: [{ name: 'TERABAG_SHARD', value: 'shard-1' }], volumeMounts: [{ name: 'bundle', mountPath: '/bundle' }] },
  ]);
  expect(initContainers[0].volumeMounts[0].readOnly).toBe(undefined);
  expect(volumes).toContainEqual({ name: 'bundle', emptyDir: {} });
  expect(containerOf(set).args).toContain('/bundle');

  const claims = RENDERINGS['an init container on volumes'] as (typeof each)[number];
  const objects = objectsOf(claims.plan, claims.options);
  const spec = { accessModes: ['ReadWriteOnce'], storageClassName: 'local', resources: { requests: { storage: '40Gi' } } };
  const claimed = find(objects, 'StatefulSet', 'terabag-shard-1').spec;
  expect(claimed.volumeClaimTemplates).toMatchObject([{ metadata: { name: 'bundle' }, spec }]);
  expect(claimed.template.spec.volumes.map(({ name }: Any) => name)).toEqual(['plan']);
  const main = find(objects, 'Deployment', 'terabag-main');
  expect(main.spec.template.spec.volumes).toContainEqual({
    name: 'bundle',
    ephemeral: { volumeClaimTemplate: { spec: { ...spec, resources: { requests: { storage: '1Gi' } } } } },
  });
});

test('main is scaled by its autoscaler, which alone says how many there are', () => {
  const objects = objectsOf(NO_SHARDS);
  expect(find(objects, 'Deployment', 'terabag-main').spec.replicas).toBe(undefined);
  expect(find(objects, 'HorizontalPodAutoscaler', 'terabag-main').spec).toMatchObject({
    scaleTargetRef: { kind: 'Deployment', name: 'terabag-main' },
    minReplicas: 2,
  });
});

test('what needs the Prometheus operator is in a directory of its own', () => {
  const files = kubernetesFiles(ONE_SHARD, KUBERNETES);
  const paths = ['plan.yaml', 'shard-0.yaml', 'main.yaml', 'network-policy.yaml', 'monitoring/pod-monitor.yaml'];
  expect(files.map(({ path }) => path)).toEqual(paths);
  for (const { path, text } of files) expect(/PodMonitor/.test(text)).toBe(path.startsWith('monitoring/'));
});

test('names of shards become names of objects, and stay apart', () => {
  expect(objectName('terabag', 'shard-0')).toBe('terabag-shard-0');
  const odd = ['Shard_0', 'shard.0', 'shard_0', 'shard 0', '-', 'x'.repeat(200), 'X'.repeat(200), '9', ''];
  const names = odd.map((name) => objectName('a', name));
  expect(new Set(names).size).toBe(odd.length);
  for (const name of names) expect(name).toMatch(/^[a-z]([a-z0-9-]{0,50}[a-z0-9])?$/);
  const endpoints = deployedPlan(ODD_NAMES, KUBERNETES).shards.map((shard) => shard.endpoints[0]);
  expect(new Set(endpoints).size).toBe(ODD_NAMES.shards.length);
});

test('a name that no object can have, and replicas that nobody can be, are refused', () => {
  for (const name of ['', 'A', '9a', 'a-', 'a'.repeat(41), 'a_b'])
    expect(() => manifestsOf(ONE_SHARD, { ...KUBERNETES, name }), name).toThrow(/names of objects begin with it/);
  for (const replicas of [0, -1, 1.5, Number.NaN])
    expect(() => manifestsOf(ONE_SHARD, { ...KUBERNETES, replicas })).toThrow(/replicas has to be/);
});
