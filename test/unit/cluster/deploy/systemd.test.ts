import { expect, test } from 'vitest';
import { type SystemdOptions, systemdFiles } from '../../../../src/cluster/deploy/systemd.js';
import type { Plan } from '../../../../src/plan/file/plan.js';
import { ODD_NAMES, ONE_SHARD, planOfShards, REPLICATED, SYSTEMD } from '../../../reference/deployed-plans.js';

const units = (plan: Plan, options: Partial<SystemdOptions> = {}): Map<string, string> =>
  new Map(systemdFiles(plan, { ...SYSTEMD, ...options }).map(({ path, text }) => [path, text]));
const field = (unit: string | undefined, name: string): string[] =>
  (unit ?? '').split('\n').flatMap((line) => (line.startsWith(`${name}=`) ? [line.slice(name.length + 1)] : []));
const at = (endpoint: string): Plan => ({ ...ONE_SHARD, shards: [{ name: 'shard-0', endpoints: [endpoint] }] });

test('each replica of each shard has a unit, and main; each with a port for metrics of its own', () => {
  const all = units(REPLICATED);
  expect([...all.keys()]).toEqual([
    ...['terabag-shard-0-0', 'terabag-shard-0-1', 'terabag-shard-1-0', 'terabag-shard-1-1', 'terabag-shard-1-2', 'terabag-main'].map(
      (name) => `${name}.service`,
    ),
  ]);
  expect(field(all.get('terabag-shard-1-2.service'), 'ExecStart')).toEqual([
    '/usr/bin/terabag shard /etc/terabag/plan.json --name shard-1 --replica 2 --bundle /var/lib/terabag/shard-1 --metrics 127.0.0.1:9405 --verify full --residency populate --drain 3000ms --insecure',
  ]);
  expect(field(all.get('terabag-main.service'), 'ExecStart')).toEqual([
    '/usr/bin/terabag serve /var/lib/terabag/main --plan /etc/terabag/plan.json --metrics 127.0.0.1:9400 --verify full --residency populate --drain 3000ms',
  ]);
  const ports = [...all.values()].map((unit) => / --metrics (\S+)/.exec(unit)?.[1]);
  expect(new Set(ports).size).toBe(all.size);
  expect([...units(ONE_SHARD).keys()]).toEqual(['terabag-shard-0.service', 'terabag-main.service']);
});

test('a unit has started when its process says that it serves, and is watched from then on', () => {
  for (const unit of units(REPLICATED).values()) {
    expect(field(unit, 'Type')).toEqual(['notify']);
    expect(field(unit, 'NotifyAccess')).toEqual(['main']);
    expect(field(unit, 'TimeoutStartSec')).toEqual(['infinity']);
    expect(Number(field(unit, 'WatchdogSec')[0])).toBeGreaterThan(0);
    const [, drainMs = ''] = / --drain (\d+)ms/.exec(unit) ?? [];
    expect(Number(field(unit, 'TimeoutStopSec')[0])).toBeGreaterThan(Number(drainMs) / 1000);
  }
});

test('keys come from the credentials of the unit; memory may be locked where it is to be', () => {
  const all = units(REPLICATED, { keys: '/etc/terabag/keys', residency: 'lock', http: '0.0.0.0:8000', grpc: 'off' });
  const shard = all.get('terabag-shard-0-0.service');
  expect(field(shard, 'ExecStart')[0]).toMatch(/ --key %d\/shards\.key --allow %d\/main\.pub$/);
  expect(field(shard, 'LoadCredential')).toEqual(['shards.key:/etc/terabag/keys/shards.key', 'main.pub:/etc/terabag/keys/main.pub']);
  expect(field(shard, 'LimitMEMLOCK')).toEqual(['infinity']);
  const main = all.get('terabag-main.service');
  expect(field(main, 'ExecStart')[0]).toMatch(/ --http 0\.0\.0\.0:8000 --grpc off --key %d\/main\.key --shard-key %d\/shards\.pub$/);
  expect(field(main, 'LoadCredential')).toEqual(['main.key:/etc/terabag/keys/main.key', 'shards.pub:/etc/terabag/keys/shards.pub']);
  expect(field(units(ONE_SHARD).get('terabag-shard-0.service'), 'LimitMEMLOCK')).toEqual([]);
});

test('a shard of loopback needs not be told that it is safe', () => {
  for (const endpoint of ['tcp://127.0.0.1:7400', 'tcp://[::1]:7400', 'tcp://localhost:7400'])
    expect(units(at(endpoint)).get('terabag-shard-0.service'), endpoint).not.toContain('--insecure');
  for (const endpoint of ['tcp://10.0.0.1:7400', 'tcp://ranking-1:7400'])
    expect(units(at(endpoint)).get('terabag-shard-0.service'), endpoint).toContain(' --insecure\n');
});

test('what units cannot say is refused: endpoints that no process listens on, paths with spaces, names', () => {
  for (const endpoint of ['srv://_a._tcp.example.com', 'file:///run/a', 'ipc:///run/a'])
    expect(() => systemdFiles(at(endpoint), SYSTEMD), endpoint).toThrow(/listens on an endpoint tcp:\/\/HOST:PORT/);
  for (const path of ['relative', '/a b', '/a"b', "/a'b", '/a\\b', '/a\nExecStartPre=/bin/true'])
    for (const name of ['program', 'planPath', 'bundles', 'keys'])
      expect(() => systemdFiles(ONE_SHARD, { ...SYSTEMD, [name]: path }), `${name} ${path}`).toThrow(/absolute path/);
  for (const word of ['', 'a b', 'a\n', '"a', '$a', '%h'])
    for (const name of ['metricsHost', 'http', 'grpc'])
      expect(() => systemdFiles(ONE_SHARD, { ...SYSTEMD, [name]: word }), `${name} ${word}`).toThrow(/a host with its port/);
  for (const name of ['', 'A', '../x', 'a b']) expect(() => systemdFiles(ONE_SHARD, { ...SYSTEMD, name })).toThrow(/names of units/);
});

test('nothing that a plan or an option says becomes a line, a specifier or a variable of its own', () => {
  const plan = { ...planOfShards({ 'shard-0': 1 }), model: { ...ONE_SHARD.model, name: 'x\nExecStartPre=/bin/false %H' } };
  const unit = units(plan, { bundles: '/srv/50%off$HOME' }).get('terabag-shard-0.service');
  expect(field(unit, 'ExecStartPre')).toEqual([]);
  expect(field(unit, 'Description')).toEqual(['Terabag shard-0 of x ExecStartPre=/bin/false %%H at tcp://10.0.0.1:7400']);
  expect(field(unit, 'ExecStart')[0]).toContain(' --bundle /srv/50%%off$$HOME/shard-0 ');
  for (const { path } of systemdFiles(ODD_NAMES, SYSTEMD)) expect(path).toMatch(/^[\w.-]+\.service$/);
});
