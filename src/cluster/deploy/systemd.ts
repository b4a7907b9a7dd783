import { canonicalHost, isEndpoint } from '../../endpoints/endpoint.js';
import type { Residency } from '../../engine/residency.js';
import { TerabagError } from '../../errors.js';
import { MAIN_SHARD, type Plan } from '../../plan/file/plan.js';
import type { DeployFile } from './document.js';

export interface SystemdOptions {
  /** With which the names of all units begin. */
  readonly name: string;
  /** Path of the command. */
  readonly program: string;
  /** Paths on the hosts: the plan file, and the directory that terabag publish wrote, or copies of what a host needs of it. */
  readonly planPath: string;
  readonly bundles: string;
  /** Directory of shards.key, shards.pub, main.key and main.pub; null: no keys. */
  readonly keys: string | null;
  readonly residency: Residency;
  readonly verify: 'full' | 'size';
  readonly drainMs: number;
  /** Where each process tells metrics and health; a port each, from METRICS_PORT on. */
  readonly metricsHost: string;
  /** Addresses of main's listeners; null: those of terabag serve. */
  readonly http: string | null;
  readonly grpc: string | null;
}

const METRICS_PORT = 9400;
/** An event loop that stands still for so long is not coming back. */
const WATCHDOG_S = 15;
/** Beyond what draining may take. */
const END_S = 10;
/** Of main, beyond the time in which it still takes requests: for those in flight, which nothing cuts short. */
const IN_FLIGHT_MS = 30_000;
const RESTART_S = 2;

/** A unit for each replica of each shard, one for main: each for the hosts where it is to run. */
export function systemdFiles(plan: Plan, options: SystemdOptions): DeployFile[] {
  const { name, program, planPath, bundles, keys, residency, verify, drainMs, metricsHost, http, grpc } = options;
  for (const [field, path] of Object.entries({ program, planPath, bundles, ...(keys !== null && { keys }) })) checkPath(field, path);
  for (const [field, word] of Object.entries({ metricsHost, ...(http !== null && { http }), ...(grpc !== null && { grpc }) }))
    checkWord(field, word);
  if (!/^[a-z][a-z0-9-]{0,63}$/.test(name))
    throw new TerabagError('invalid_argument', `names of units begin with it: lower-case letters, digits and dashes: ${name}`, {
      field: 'name',
    });
  const replicas = plan.shards.flatMap(({ name: shard, endpoints }) =>
    endpoints.map((endpoint, replica) => ({ shard, endpoint, replica, of: endpoints.length })),
  );
  const metrics = (port: number): string[] => ['--metrics', `${metricsHost}:${METRICS_PORT + port}`];
  const common = ['--verify', verify, '--residency', residency];
  const shards = replicas.map(({ shard, endpoint, replica, of }, at): DeployFile => {
    const unsafe = isLocal(shard, endpoint) ? [] : ['--insecure'];
    const security = keys === null ? unsafe : ['--key', '%d/shards.key', '--allow', '%d/main.pub'];
    const which = of > 1 ? ` replica ${replica}` : '';
    return unit({
      file: `${name}-${shard}${of > 1 ? `-${replica}` : ''}.service`,
      description: `Terabag ${shard}${which} of ${plan.model.name} at ${endpoint}`,
      command: [
        ...[
          program,
          'shard',
          planPath,
          '--name',
          shard,
          ...(of > 1 ? ['--replica', String(replica)] : []),
          '--bundle',
          `${bundles}/${shard}`,
        ],
        ...[...metrics(at + 1), ...common, '--drain', `${drainMs}ms`, ...security],
      ],
      credentials: keys === null ? [] : [`shards.key:${keys}/shards.key`, `main.pub:${keys}/main.pub`],
      drainMs,
      options,
    });
  });
  const main = unit({
    file: `${name}-${MAIN_SHARD}.service`,
    description: `Terabag main shard of ${plan.model.name}`,
    command: [
      ...[program, 'serve', `${bundles}/${MAIN_SHARD}`, '--plan', planPath, ...metrics(0), ...common, '--drain', `${drainMs}ms`],
      ...(http === null ? [] : ['--http', http]),
      ...(grpc === null ? [] : ['--grpc', grpc]),
      ...(keys === null ? [] : ['--key', '%d/main.key', '--shard-key', '%d/shards.pub']),
    ],
    credentials: keys === null ? [] : [`main.key:${keys}/main.key`, `shards.pub:${keys}/shards.pub`],
    drainMs: drainMs + IN_FLIGHT_MS,
    options,
  });
  return [...shards, main];
}

function checkPath(field: string, path: string): void {
  if (/^\/[^\s\0"'\\]*$/.test(path)) return;
  throw new TerabagError('invalid_argument', `a unit needs an absolute path, without spaces and quotes: ${path}`, { field, path });
}

function checkWord(field: string, word: string): void {
  if (/^[\w.:[\]*-]+$/.test(word)) return;
  throw new TerabagError('invalid_argument', `an address is a host with its port: ${word}`, { field });
}

/** Whether a shard listens on it without being told that others may connect; refuses what no process can listen on. */
function isLocal(shard: string, endpoint: string): boolean {
  if (!isEndpoint(endpoint) || !endpoint.startsWith('tcp://')) {
    const message = `a unit listens on an endpoint tcp://HOST:PORT, which that of shard ${shard} is not: ${endpoint}`;
    throw new TerabagError('bad_plan', message, { shard, endpoint });
  }
  const host = canonicalHost(endpoint) ?? '';
  return host === 'localhost' || host === '::1' || host.startsWith('127.');
}

interface Unit {
  readonly file: string;
  readonly description: string;
  readonly command: readonly string[];
  readonly credentials: readonly string[];
  readonly drainMs: number;
  readonly options: SystemdOptions;
}

/** A specifier begins with a percent sign, a variable with a dollar; %d is meant. No word has spaces or quotes. */
const asArgument = (word: string): string => word.replace(/%(?!d\/)/g, '%%').replaceAll('$', '$$$$');
const asText = (text: string): string => text.replace(/\s+/g, ' ').replaceAll('%', '%%');

function unit({ file, description, command, credentials, drainMs, options }: Unit): DeployFile {
  const lines = [
    '[Unit]',
    `Description=${asText(description)}`,
    'Wants=network-online.target',
    'After=network-online.target',
    '# One that refuses what it is given does so again: ten such starts in a row are enough.',
    'StartLimitIntervalSec=10min',
    'StartLimitBurst=10',
    '',
    '[Service]',
    'Type=notify',
    'NotifyAccess=main',
    `ExecStart=${command.map(asArgument).join(' ')}`,
    '# Tables are read and checked before it is ready.',
    'TimeoutStartSec=infinity',
    `TimeoutStopSec=${Math.ceil(drainMs / 1000) + END_S}`,
    '# Signs of life come from its event loop.',
    `WatchdogSec=${WATCHDOG_S}`,
    'Restart=on-failure',
    `RestartSec=${RESTART_S}`,
    'LimitNOFILE=65536',
    ...(options.residency === 'lock' ? ['LimitMEMLOCK=infinity'] : []),
    ...credentials.map((credential) => `LoadCredential=${credential}`),
    '',
    ...HARDENING,
    '',
    '[Install]',
    'WantedBy=multi-user.target',
  ];
  return { path: file, text: `${lines.join('\n')}\n` };
}

/** All that a process which reads files and talks to others can do without. Not MemoryDenyWriteExecute: V8 compiles to memory that it runs. */
const HARDENING = [
  '# A user that is there while the unit is.',
  'DynamicUser=yes',
  'UMask=0077',
  'CapabilityBoundingSet=',
  'AmbientCapabilities=',
  'NoNewPrivileges=yes',
  'ProtectSystem=strict',
  'ProtectHome=yes',
  'PrivateTmp=yes',
  'PrivateDevices=yes',
  'DevicePolicy=closed',
  'ProtectHostname=yes',
  'ProtectClock=yes',
  'ProtectKernelTunables=yes',
  'ProtectKernelModules=yes',
  'ProtectKernelLogs=yes',
  'ProtectControlGroups=yes',
  'ProtectProc=invisible',
  'RestrictNamespaces=yes',
  'RestrictRealtime=yes',
  'RestrictSUIDSGID=yes',
  'LockPersonality=yes',
  '# AF_NETLINK is how addresses of interfaces are found.',
  'RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK',
  'SystemCallArchitectures=native',
  'SystemCallFilter=@system-service',
  'SystemCallFilter=~@privileged @resources',
  'SystemCallErrorNumber=EPERM',
];
