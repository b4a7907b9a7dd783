import { mkdir, readdir, readFile } from 'node:fs/promises';
import { dirname, join, relative, resolve } from 'node:path';
import { Command, Option } from 'commander';
import type { DeployFile } from '../cluster/deploy/document.js';
import { helmFiles } from '../cluster/deploy/helm.js';
import { kubernetesFiles } from '../cluster/deploy/kubernetes.js';
import type { BundleSource, KeySource, KubernetesOptions } from '../cluster/deploy/options.js';
import { systemdFiles } from '../cluster/deploy/systemd.js';
import type { Residency } from '../engine/residency.js';
import { readModelSpec } from '../model/bundle.js';
import { modelHash } from '../model/hash.js';
import { checkPlan, MAIN_SHARD, type Plan, readPlan } from '../plan/file/plan.js';
import { bundleOf } from '../plan/file/published.js';
import { heldBytes } from '../plan/placement/bytes.js';
import { readKeyFile, readPublicKeys } from '../rpc/transport/security.js';
import { outputError, writeFileAtomic } from '../tables/atomic.js';
import { further } from './help.js';
import { drainOption, positiveInteger, residencyOption, verifyOption } from './options.js';
import { version } from './version.js';
import { warn } from './warn.js';

interface CommonOptions {
  readonly output: string;
  readonly name: string;
  readonly residency: Residency;
  readonly verify: 'full' | 'size';
  readonly drain: number;
  readonly json?: boolean;
}

interface KubernetesFlags extends CommonOptions {
  readonly namespace?: string;
  readonly image: string;
  readonly replicas?: number;
  readonly bundle?: string;
  readonly claim?: string;
  readonly bundleImage?: string;
  readonly bundleCommand: string;
  readonly storageClass?: string;
  readonly keys?: string;
  readonly keySecrets?: boolean;
  readonly tlsSecret?: string;
  readonly tokenSecret?: string;
}

interface SystemdFlags extends CommonOptions {
  readonly program: string;
  readonly planPath: string;
  readonly bundles: string;
  readonly keys?: string;
  readonly metricsHost: string;
  readonly http?: string;
  readonly grpc?: string;
}

const rendering = (name: string, description: string): Command =>
  new Command(name)
    .description(description)
    .argument('<plan>', 'the plan file')
    .requiredOption('-o, --output <dir>', 'directory to write to')
    .option('--name <prefix>', 'with which all names begin; two versions of a model have two', 'terabag')
    .addOption(residencyOption())
    .addOption(verifyOption())
    .addOption(drainOption())
    .option('--json', 'print JSON');

const onKubernetes = (name: string, description: string): Command =>
  rendering(name, description)
    .option('--image <reference>', 'image of Terabag (docs/deploy.md)', `terabag:${version}`)
    .option('--replicas <n>', 'of each shard (default: as many as it has endpoints in the plan)', positiveInteger)
    .option('--bundle <dir>', 'directory of the model: how much memory shards need, of a plan that does not say it')
    .option('--claim <name>', 'PersistentVolumeClaim of what was published (default: <prefix>-published)')
    .addOption(new Option('--bundle-image <reference>', 'image of a container that fills /bundle before each start').conflicts('claim'))
    .option('--bundle-command <words>', 'its command', 'cp -R /published/$(TERABAG_SHARD)/. /bundle/')
    .option('--storage-class <name>', 'with --bundle-image: of volumes for it (default: the disk of the node)')
    .option('--keys <dir>', 'shards.key, shards.pub, main.key and main.pub there (terabag keygen) become Secrets')
    .addOption(new Option('--key-secrets', 'the Secrets of keys are made by others').conflicts('keys'))
    .option('--tls-secret <name>', "of main's certificate, of type kubernetes.io/tls")
    .option('--token-secret <name>', 'whose entry tokens has bearer tokens of clients, one a line');

export const deployKubernetesCommand = onKubernetes('kubernetes', 'write manifests that serve a plan on Kubernetes')
  .option('--namespace <name>', 'of all objects (default: the one that they are applied to)')
  .addHelpText(
    'after',
    further(`
The plan's shards become a StatefulSet each, behind a headless Service whose name is their endpoint in the plan of the ConfigMap. What needs the
Prometheus operator is in DIR/monitoring. Without keys the NetworkPolicy alone keeps others from the shards.

Examples:
  terabag deploy kubernetes plan.json -o manifests && kubectl apply -f manifests
  terabag deploy kubernetes plan.json --replicas 2 --keys ./keys --claim models -o manifests
  terabag deploy kubernetes plan.json --bundle-image models:v7 --residency hugepages --namespace ranking -o manifests`),
  )
  .action(async (planPath: string, options: KubernetesFlags) => {
    const plan = await planWithBytes(planPath, options.bundle);
    await write(planPath, kubernetesFiles(plan, await kubernetesOptions(options)), options);
  });

export const deployHelmCommand = onKubernetes('helm', 'write a Helm chart that serves a plan on Kubernetes')
  .addHelpText(
    'after',
    further(`
It has the manifests of terabag deploy kubernetes; images, replicas, resources, storage and where pods run are in values.yaml.

Examples:
  terabag deploy helm plan.json -o chart && helm install ranking chart
  terabag deploy helm plan.json --keys ./keys -o chart && helm upgrade ranking chart --set main.autoscaling.maxReplicas=20`),
  )
  .action(async (planPath: string, options: KubernetesFlags) => {
    const plan = await planWithBytes(planPath, options.bundle);
    await write(planPath, helmFiles(plan, await kubernetesOptions(options)), options);
  });

export const deploySystemdCommand = rendering('systemd', 'write units of systemd for each replica of a plan, and for main')
  .option('--program <path>', 'path of terabag', '/usr/bin/terabag')
  .option('--plan-path <path>', 'of the plan file on the hosts', '/etc/terabag/plan.json')
  .option('--bundles <dir>', 'what was published, on the hosts', '/var/lib/terabag')
  .option('--keys <dir>', 'of shards.key, shards.pub, main.key and main.pub on the hosts (terabag keygen)')
  .option('--http <address>', "main's, of HTTP (default: that of terabag serve, on loopback)")
  .option('--grpc <address>', "main's, of gRPC (default: likewise)")
  .option('--metrics-host <host>', 'where processes tell metrics and health, from port 9400 on', '127.0.0.1')
  .addHelpText(
    'after',
    further(`
Each unit is for the host of its endpoint. A unit has started when its process serves; one whose event loop stands still for 15 s is started anew.

Examples:
  terabag deploy systemd plan.json -o units
  terabag deploy systemd plan.json --keys /etc/terabag/keys --residency lock --bundles /srv/published -o units`),
  )
  .action(async (planPath: string, options: SystemdFlags) => {
    const {
      name,
      program,
      planPath: onHosts,
      bundles,
      keys = null,
      residency,
      verify,
      drain,
      metricsHost,
      http = null,
      grpc = null,
    } = options;
    const files = systemdFiles(await readPlan(planPath), {
      ...{ name, program, planPath: onHosts, bundles, keys, residency, verify, drainMs: drain, metricsHost, http, grpc },
    });
    await write(planPath, files, options);
  });

export const deployCommand = new Command('deploy')
  .description('write what a cluster needs to serve a plan: manifests, a Helm chart, or units')
  .configureHelp({ subcommandTerm: (command) => command.name() })
  .addCommand(deployKubernetesCommand)
  .addCommand(deployHelmCommand)
  .addCommand(deploySystemdCommand)
  .addHelpText(
    'after',
    further(`
Examples:
  terabag deploy kubernetes plan.json -o manifests
  terabag deploy helm plan.json -o chart
  terabag deploy systemd plan.json -o units`),
  );

/** With what it holds, by the model where the plan does not say it. */
async function planWithBytes(planPath: string, bundle: string | undefined): Promise<Plan> {
  const plan = await readPlan(planPath);
  if (bundle !== undefined) {
    const spec = await readModelSpec(await bundleOf(bundle, MAIN_SHARD));
    checkPlan(plan, spec, modelHash(spec));
    return { ...plan, bytes: heldBytes(plan, spec) };
  }
  if (plan.bytes === undefined) warn(`${planPath} does not say what it holds: without --bundle DIR no memory is asked for`);
  return plan;
}

async function kubernetesOptions(options: KubernetesFlags): Promise<KubernetesOptions> {
  const { name, namespace = null, image, replicas = null, residency, verify, drain, tlsSecret = null, tokenSecret = null } = options;
  return {
    ...{ name, namespace, image, version, replicas, residency, verify, drainMs: drain, tlsSecret, tokenSecret },
    bundle: bundleSource(options),
    keys: await keySource(options),
  };
}

function bundleSource({ name, claim, bundleImage, bundleCommand, storageClass }: KubernetesFlags): BundleSource {
  if (bundleImage === undefined) return { kind: 'claim', claim: claim ?? `${name}-published` };
  return {
    kind: 'image',
    image: bundleImage,
    command: bundleCommand.split(/\s+/).filter((word) => word !== ''),
    storageClass: storageClass ?? null,
  };
}

async function keySource({ keys, keySecrets }: KubernetesFlags): Promise<KeySource> {
  if (keys === undefined) return { kind: keySecrets ? 'secrets' : 'none' };
  const at = (file: string): string => join(keys, file);
  // What shards and main would refuse is refused here.
  for (const name of ['shards', 'main']) {
    readKeyFile(at(`${name}.key`), 'keys');
    readPublicKeys(at(`${name}.pub`), 'keys');
  }
  const files = ['shards.key', 'shards.pub', 'main.key', 'main.pub'] as const;
  const [shardsKey = '', shardsPublic = '', mainKey = '', mainPublic = ''] = await Promise.all(
    files.map((file) => readFile(at(file), 'utf8')),
  );
  return { kind: 'files', texts: { shardsKey, shardsPublic, mainKey, mainPublic } };
}

async function write(planPath: string, files: readonly DeployFile[], { output, json }: CommonOptions): Promise<void> {
  for (const { path, text, secret } of files) {
    const target = join(output, path);
    await mkdir(dirname(target), { recursive: true }).catch((error: unknown) => {
      throw outputError(error, dirname(target));
    });
    // Before the file is there, not when others may have opened it.
    const before = secret ? process.umask(0o077) : null;
    try {
      await writeFileAtomic(target, text);
    } finally {
      if (before !== null) process.umask(before);
    }
  }
  const others = await otherFiles(output, files);
  if (others.length > 0) warn(`${output} has files besides, which are not of this plan: ${others.join(', ')}`);
  const written = files.map(({ path }) => path);
  if (json) console.log(JSON.stringify({ plan: planPath, output, files: written }));
  else for (const path of written) console.log(join(output, path));
}

/** Left of a rendering with other shards, say: they would be applied too. */
async function otherFiles(output: string, files: readonly DeployFile[]): Promise<string[]> {
  const written = new Set(files.map(({ path }) => resolve(output, path)));
  const entries = await readdir(output, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => resolve(parentPath, name))
    .filter((path) => !written.has(path))
    .map((path) => relative(output, path));
}
