import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Plan, publish, readPlan } from '../../src/index.js';
import { readModelSpec } from '../../src/model/bundle.js';
import { heldBytes, planSummary } from '../../src/plan/placement/bytes.js';
import { type SmallModel, writeSmallModel } from '../reference/small-model.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

let dir: string;
let model: SmallModel;
let plan: Plan;
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'terabag-deploy-'));
  model = await writeSmallModel(71);
  expect(terabag('plan', model.dir, '--shards', '2', '--replicas', '2', '-o', 'plan.json').status).toBe(0);
  plan = await readPlan(join(dir, 'plan.json'));
  const { bytes: _, ...without } = plan;
  writeFileSync(join(dir, 'without.json'), JSON.stringify(without));
});
afterAll(() => {
  rmSync(model.dir, { recursive: true });
  rmSync(dir, { recursive: true });
});

function terabag(...args: string[]): { readonly status: number | null; readonly stdout: string; readonly stderr: string } {
  return spawnSync(process.execPath, [main, ...args], { cwd: dir, encoding: 'utf8' });
}
const text = (path: string): string => readFileSync(join(dir, path), 'utf8');

test('a plan says what its shards hold, and main with its dense part', async () => {
  const spec = await readModelSpec(model.dir);
  const { main: ofMain = 0, ...ofShards } = plan.bytes ?? {};
  expect(ofShards).toEqual(Object.fromEntries(planSummary(plan, spec).map(({ shard, bytes }) => [shard, bytes])));
  expect(ofMain).toBe(spec.files['dense.safetensors']?.bytes);
  // As much as the files that are published.
  const published = await publish(plan, model.dir, join(dir, 'published'), { verify: 'size' });
  for (const { shard, bytes } of published) {
    expect(bytes, shard).toBeGreaterThanOrEqual(plan.bytes?.[shard] ?? Number.NaN);
    expect(bytes, shard).toBeLessThan((plan.bytes?.[shard] ?? 0) + 20_000);
  }
});

test.each(['kubernetes', 'helm', 'systemd'])('deploy %s writes files, and says which', (target) => {
  const { status, stdout, stderr } = terabag('deploy', target, 'plan.json', '-o', target, '--json');
  expect([status, stderr]).toEqual([0, '']);
  const { files } = JSON.parse(stdout) as { files: string[] };
  const written = readdirSync(join(dir, target), { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  expect(written).toHaveLength(files.length);
  for (const file of files) expect(text(join(target, file))).not.toBe('');
});

test('memory is that of the plan, or of the model where the plan does not say it', async () => {
  const memory = (path: string): string[] => text(path).match(/memory: .*/g) ?? [];
  terabag('deploy', 'kubernetes', 'plan.json', '-o', 'said');
  expect(memory('said/shard-0.yaml')).toHaveLength(2);
  const unsaid = terabag('deploy', 'kubernetes', 'without.json', '-o', 'unsaid');
  expect([unsaid.status, unsaid.stderr]).toEqual([
    0,
    expect.stringMatching(/warning: without\.json does not say what it holds: without --bundle DIR/),
  ]);
  expect(memory('unsaid/shard-0.yaml')).toEqual([]);
  for (const bundle of [model.dir, 'published']) {
    const { status, stderr } = terabag('deploy', 'kubernetes', 'without.json', '--bundle', bundle, '-o', 'model');
    expect([status, stderr]).toEqual([0, '']);
    expect(memory('model/shard-0.yaml')).toEqual(memory('said/shard-0.yaml'));
  }
  expect(plan.bytes).toEqual(heldBytes(plan, await readModelSpec(model.dir)));
});

test('keys become Secrets in a file of their owner, when they are keys', () => {
  for (const name of ['shards', 'main']) expect(terabag('keygen', `keys/${name}`).status).toBe(0);
  expect(terabag('deploy', 'kubernetes', 'plan.json', '--keys', 'keys', '-o', 'keyed').status).toBe(0);
  expect(statSync(join(dir, 'keyed/secrets.yaml')).mode & 0o777).toBe(0o600);
  expect(text('keyed/secrets.yaml')).toContain(/secret (.*)/.exec(text('keys/shards.key'))?.[1]);
  expect(text('keyed/shard-0.yaml')).not.toContain('--insecure');
  chmodSync(join(dir, 'keys/main.key'), 0o644);
  const open = terabag('deploy', 'helm', 'plan.json', '--keys', 'keys', '-o', 'open');
  expect([open.status, open.stderr]).toEqual([1, expect.stringMatching(/may be read by others/)]);
  const missing = terabag('deploy', 'helm', 'plan.json', '--keys', 'none', '-o', 'open');
  expect([missing.status, missing.stderr]).toEqual([1, expect.stringMatching(/none\/shards\.key/)]);
});

test('files of another rendering are told, since they would be applied too', () => {
  terabag('deploy', 'kubernetes', 'plan.json', '-o', 'used');
  writeFileSync(join(dir, 'used/shard-9.yaml'), '');
  const { status, stderr } = terabag('deploy', 'kubernetes', 'plan.json', '-o', 'used');
  expect([status, stderr]).toEqual([0, expect.stringMatching(/used has files besides, which are not of this plan: shard-9\.yaml\n$/)]);
});

test.each([
  [['deploy', 'kubernetes', 'plan.json'], 2, /-o, --output <dir>' not specified[\s\S]*terabag deploy kubernetes --help has examples/],
  [['deploy', 'nomad', 'plan.json'], 2, /nomad/],
  [['deploy', 'helm', 'plan.json', '-o', 'x', '--claim', 'a', '--bundle-image', 'b'], 2, /cannot be used with/],
  [['deploy', 'helm', 'plan.json', '-o', 'x', '--name', 'A'], 1, /names of objects begin with it.*: A \(invalid_argument\)/],
  [['deploy', 'systemd', 'plan.json', '-o', 'x', '--bundles', 'relative'], 1, /absolute path.*: relative \(invalid_argument\)/],
  [['deploy', 'kubernetes', 'none.json', '-o', 'x'], 1, /none\.json/],
  [['deploy', 'kubernetes', 'plan.json', '-o', 'plan.json'], 1, /plan\.json/],
] as const)('%j is refused with what is wrong', (args, code, message) => {
  const { status, stderr } = terabag(...args);
  expect(stderr).toMatch(message);
  expect(status).toBe(code);
});

test('deploy says what it can write, and each of them has help', () => {
  const { stderr, ...bare } = terabag('deploy');
  expect([bare.status, stderr]).toEqual([0, expect.stringMatching(/Commands:[\s\S]*kubernetes[\s\S]*helm[\s\S]*systemd/)]);
  const { status, stdout } = terabag('deploy', 'kubernetes', '--help');
  expect([status, stdout]).toEqual([0, expect.stringMatching(/^Usage: terabag deploy kubernetes [\s\S]*Examples:/)]);
  expect(terabag('deploy', '--help').status).toBe(0);
});
