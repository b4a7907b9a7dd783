import type { Command } from 'commander';
import { expect, test } from 'vitest';
import { openProgram } from '../../../../src/cli/program.js';
import { manifestsOf } from '../../../../src/cluster/deploy/manifests.js';
import { systemdFiles } from '../../../../src/cluster/deploy/systemd.js';
import { plainOf, RENDERINGS, REPLICATED, SYSTEMD } from '../../../reference/deployed-plans.js';

const { commands } = await openProgram([]);
const commandOf = (name: string): Command => commands.find((command) => command.name() === name) ?? expect.fail(`no command ${name}`);

/** Words that run one of the commands, as everything that deploys has them. */
const rendered = (name: string): string[][] =>
  [
    ...Object.values(RENDERINGS).flatMap(({ plan, options }) =>
      manifestsOf(plan, options).flatMap(({ object }) => {
        const { spec } = plainOf(object as never) as { spec?: { template?: { spec: { containers: { args: string[] }[] } } } };
        return spec?.template?.spec.containers.map(({ args }) => args) ?? [];
      }),
    ),
    ...[SYSTEMD, { ...SYSTEMD, keys: '/etc/keys', http: '0.0.0.0:8000', grpc: 'off' }].flatMap((options) =>
      systemdFiles(REPLICATED, options).map(({ text }) => (/^ExecStart=\S+ (.*)$/m.exec(text)?.[1] ?? '').split(' ')),
    ),
  ].filter(([command]) => command === name);

/** Of a build whose terabag serve has no listener of its own for metrics, manifests of main cannot be right. */
const served = commandOf('serve').options.some(({ long }) => long === '--metrics');
if (!served) console.warn('what deploys is not held against terabag serve, which has no --metrics here');

test.each(served ? ['shard', 'serve'] : ['shard'])('what deploys gives terabag %s options that it has, and all that it needs', (name) => {
  const command = commandOf(name);
  const known = new Set(command.options.map(({ long }) => long));
  const all = rendered(name);
  expect(all.length).toBeGreaterThan(10);
  for (const words of all) {
    const given = words.filter((word) => word.startsWith('--'));
    expect(given.filter((word) => !known.has(word))).toEqual([]);
    for (const { long, mandatory } of command.options) if (mandatory) expect(given).toContain(long);
  }
});
