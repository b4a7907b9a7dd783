import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import type { DeployFile } from '../../src/cluster/deploy/document.js';
import { helmFiles } from '../../src/cluster/deploy/helm.js';
import { kubernetesFiles } from '../../src/cluster/deploy/kubernetes.js';
import { manifestsOf } from '../../src/cluster/deploy/manifests.js';
import { systemdFiles } from '../../src/cluster/deploy/systemd.js';
import { run, toolPath } from '../reference/deploy-tools.js';
import { ODD_NAMES, plainOf, planOfShards, RENDERINGS, REPLICATED, SYSTEMD } from '../reference/deployed-plans.js';

const validate = toolPath('kubernetes-validate', 'tests of manifests against the schemas of Kubernetes', 'venv/bin');
const helm = toolPath('helm', 'tests of the Helm chart', 'bin');
const analyze = process.platform === 'linux' ? toolPath('systemd-analyze', 'tests of the units of systemd') : null;
/** The Python that kubernetes-validate runs in has a parser of YAML. */
const python = validate === null ? null : join(dirname(validate), 'python');

const dir = mkdtempSync(join(tmpdir(), 'terabag-deploy-'));
afterAll(() => rmSync(dir, { recursive: true }));

function writeAll(name: string, files: readonly DeployFile[]): string {
  const at = join(dir, name.replace(/\W/g, '-'));
  for (const { path, text } of files) {
    mkdirSync(dirname(join(at, path)), { recursive: true });
    writeFileSync(join(at, path), text);
  }
  return at;
}

/** The documents of a text of YAML, as a parser of YAML 1.1 reads them. */
function parseYaml(text: string): unknown[] {
  const program = 'import json, sys, yaml; json.dump([one for one in yaml.safe_load_all(sys.stdin) if one is not None], sys.stdout)';
  const { status, stdout, stderr } = run(python ?? '', ['-c', program], text);
  expect(stderr).toBe('');
  expect(status).toBe(0);
  return JSON.parse(stdout) as unknown[];
}

const each = Object.entries(RENDERINGS).map(([what, rendering]) => ({ what, ...rendering }));
const kindAndName = (object: unknown): string => {
  const { kind, metadata } = object as { kind: string; metadata: { name: string } };
  return `${kind} ${metadata.name}`;
};
const byName = (objects: readonly unknown[]): unknown[] => [...objects].sort((a, b) => (kindAndName(a) < kindAndName(b) ? -1 : 1));

test.skipIf(validate === null).each(each)(
  '$what: manifests keep the schemas of Kubernetes, and say what was meant',
  ({ what, plan, options }) => {
    const files = kubernetesFiles(plan, options);
    const at = writeAll(`kubernetes-${what}`, files);
    const known = files.filter(({ path }) => !path.startsWith('monitoring/')).map(({ path }) => join(at, path));
    const { status, stdout, stderr } = run(validate ?? '', ['--strict', ...known]);
    expect(status, stdout + stderr).toBe(0);
    expect((stdout + stderr).match(/passed for resource/g)).toHaveLength(manifestsOf(plan, options).length - 1);
    const parsed = parseYaml(files.map(({ text }) => text).join('---\n'));
    expect(parsed).toEqual(manifestsOf(plan, options).map(({ object }) => plainOf(object as never)));
  },
);

test.skipIf(validate === null)('the schemas find a field that there is not', () => {
  const [first] = kubernetesFiles(REPLICATED, RENDERINGS['one shard']?.options as never).filter(({ path }) => path === 'shard-0.yaml');
  const at = writeAll('wrong', [{ path: 'wrong.yaml', text: (first?.text ?? '').replace('minReadySeconds', 'minReadySecond') }]);
  expect(run(validate ?? '', ['--strict', join(at, 'wrong.yaml')]).status).not.toBe(0);
});

const template = (at: string, ...args: string[]): unknown[] => {
  const { status, stdout, stderr } = run(helm ?? '', ['template', 'release', at, ...args]);
  expect(status, stderr).toBe(0);
  return parseYaml(stdout);
};

test.skipIf(helm === null || python === null).each(each)(
  '$what: the chart renders to the same manifests, and lints',
  ({ what, plan, options }) => {
    const at = writeAll(`helm-${what}`, helmFiles(plan, options));
    const { status, stdout, stderr } = run(helm ?? '', ['lint', '--strict', at]);
    expect(status, stdout + stderr).toBe(0);
    expect(stdout).not.toMatch(/WARNING|ERROR/);
    const objects = manifestsOf(plan, { ...options, namespace: null }).map(({ object }) => plainOf(object as never));
    const rendered = template(at, '--set', 'podMonitor.enabled=true');
    expect(byName(rendered)).toEqual(byName(objects));
    // Its kind may not be there.
    expect(template(at)).toHaveLength(objects.length - 1);
  },
);

test.skipIf(helm === null || python === null)('values of the chart decide images, replicas, resources and what is there', () => {
  // biome-ignore lint/suspicious/noExplicitAny: manifests are read as what they are, plain data.
  const find = (objects: readonly unknown[], name: string): any => objects.find((object) => kindAndName(object) === name);
  const { options } = RENDERINGS['an init container on volumes'] as (typeof each)[number];
  const at = writeAll('values', helmFiles(ODD_NAMES, options));
  const values = [
    ...['image.reference=registry:5000/terabag:{{x}}', 'shards.Shard_0.replicas=7', 'shards.shard\\.0.resources.limits.memory=9Gi'],
    ...['shards.plan.storage=7Gi', 'bundle.storageClass=fast', 'main.autoscaling.enabled=false', 'main.replicas=3'],
    ...['networkPolicy.enabled=false', 'main.args={--workers,4}', 'main.nodeSelector.disk=ssd'],
  ];
  const objects = template(at, ...values.flatMap((value) => ['--set', value]));
  expect(objects.filter((object) => /^(NetworkPolicy|HorizontalPodAutoscaler)/.test(kindAndName(object)))).toEqual([]);
  const main = find(objects, 'Deployment terabag-main').spec;
  expect(main.replicas).toBe(3);
  expect(main.template.spec.containers[0].args.slice(-2)).toEqual(['--workers', '4']);
  expect(main.template.spec.containers[0].image).toBe('registry:5000/terabag:{{x}}');
  expect(main.template.spec.nodeSelector).toEqual({ disk: 'ssd' });
  const sets = objects.filter((object) => kindAndName(object).startsWith('StatefulSet'));
  const setOf = (shard: string): unknown =>
    sets.find((set) => JSON.stringify(set).includes(`"value":${JSON.stringify(shard)}`)) ?? expect.fail(shard);
  expect(setOf('Shard_0')).toMatchObject({ spec: { replicas: 7 } });
  expect(setOf('shard.0')).toMatchObject({ spec: { template: { spec: { containers: [{ resources: { limits: { memory: '9Gi' } } }] } } } });
  const claim = { spec: { storageClassName: 'fast', resources: { requests: { storage: '7Gi' } } } };
  expect(setOf('plan')).toMatchObject({ spec: { volumeClaimTemplates: [claim] } });
});

/** Units by what they show; the program has to be one that is there. */
const UNITS = {
  'other hosts, without keys': { plan: REPLICATED, options: SYSTEMD },
  'keys and locked memory': {
    plan: REPLICATED,
    options: { ...SYSTEMD, keys: '/etc/terabag/keys', residency: 'lock' as const, http: '0.0.0.0:8000', grpc: 'off' },
  },
  'odd names': { plan: ODD_NAMES, options: { ...SYSTEMD, name: 'other', bundles: '/srv/100%$x' } },
  loopback: { plan: { ...planOfShards({ a: 1 }), shards: [{ name: 'a', endpoints: ['tcp://[::1]:7400'] }] }, options: SYSTEMD },
};

test.skipIf(analyze === null).each(Object.entries(UNITS))(
  '%s: systemd has no word on the units, and their exposure is below 3',
  (what, given) => {
    const units = systemdFiles(given.plan, { ...given.options, program: process.execPath });
    const at = writeAll(`systemd-${what}`, units);
    const paths = units.map(({ path }) => join(at, path));
    const verified = run(analyze ?? '', ['verify', '--man=no', ...paths]);
    expect(verified.stderr).toBe('');
    expect(verified.status).toBe(0);
    for (const path of paths) {
      const { status, stdout, stderr } = run(analyze ?? '', ['security', '--offline=true', '--no-pager', '--threshold=30', path]);
      expect(stderr).toBe('');
      expect(status, stdout).toBe(0);
      const [, exposure = ''] = /Overall exposure level for \S+: ([\d.]+)/.exec(stdout) ?? [];
      expect(Number(exposure), path).toBeLessThan(3);
      expect(Number(exposure), path).toBeGreaterThan(0);
    }
  },
);

test.skipIf(analyze === null)('systemd finds a key that there is not', () => {
  const [unit] = systemdFiles(REPLICATED, { ...SYSTEMD, program: process.execPath });
  const at = writeAll('systemd-wrong', [{ path: 'wrong.service', text: (unit?.text ?? '').replace('WatchdogSec', 'WatchdogSecs') }]);
  expect(run(analyze ?? '', ['verify', '--man=no', join(at, 'wrong.service')]).stderr).toMatch(/WatchdogSecs/);
});
