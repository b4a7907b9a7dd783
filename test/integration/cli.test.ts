import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openLocal, type PredictRequest, STRATEGIES } from '../../src/index.js';
import { demoShape, shapeBytes, tablesOf } from '../../src/lab/generate/model-shape.js';
import { RequestGenerator } from '../../src/lab/generate/request-generator.js';
import { requestShape } from '../../src/lab/generate/request-shape.js';
import { writeSyntheticBundle } from '../../src/lab/generate/synthetic-bundle.js';
import { writeRequests } from '../../src/lab/requests/request-file.js';
import { readSafetensorsHeader, readTensor, writeSafetensors } from '../../src/tables/safetensors.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const shape = demoShape(2 ** 20);
let dir: string;
let bundle: string;
let requests: ReturnType<RequestGenerator['next']>[];

function terabag(args: string[], input = ''): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [main, ...args], { cwd: dir, encoding: 'utf8', input, maxBuffer: 2 ** 28 });
}

const plain = (_key: string, value: unknown): unknown => (ArrayBuffer.isView(value) ? Array.from(value as Float32Array) : value);

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'terabag-cli-'));
  bundle = join(dir, 'model');
  await writeSyntheticBundle(bundle, shape);
  const generator = new RequestGenerator(requestShape(shape), 5);
  requests = Array.from({ length: 40 }, (_, n) => generator.next(1 + (n % 7)));
  writeFileSync(join(dir, 'requests.jsonl'), requests.map((request) => `${JSON.stringify(request, plain)}\n`).join(''));
});
afterAll(() => rmSync(dir, { recursive: true }));

test.each([
  ...[
    'inspect',
    'verify',
    'warm',
    'pack',
    'profile',
    'calibrate',
    'plan',
    'publish',
    'shard',
    'up',
    'predict',
    'synth',
    'requests',
    'bench',
    'characterise',
    'report',
  ],
  'demo',
])('%s --help has examples and exits with 0', (command) => {
  const { status, stdout } = terabag([command, '--help']);
  expect(status).toBe(0);
  expect(stdout).toMatch(new RegExp(`Examples:\n {2}terabag ${command}`));
  expect(stdout.split('\n').filter((line) => line.length > 80)).toEqual([]);
});

test('wrong usage exits with 2, failures with 1 and one line that says what to do', () => {
  expect(terabag(['plan', 'model', '-o', 'x'])).toMatchObject({ status: 2, stderr: expect.stringMatching(/--shards.*not specified/) });
  expect(terabag(['plan', 'model', '--shards', '0', '-o', 'x'])).toMatchObject({
    status: 2,
    stderr: expect.stringMatching(/integer, 1 or more/),
  });
  expect(terabag(['nothing'])).toMatchObject({ status: 2 });
  expect(terabag(['predict', 'requests.jsonl', '--bundle', 'model', '--json'])).toMatchObject({ status: 2 });
  for (const args of [['--rpc', 'paper'], ['--dedup'], ['--plan', 'plan.json', '--batch-items', '4'], ['--rpc', 'each']])
    expect(terabag(['predict', 'requests.jsonl', '--bundle', 'model', ...args])).toMatchObject({ status: 2 });
  const failed = terabag(['inspect', 'elsewhere']);
  expect(failed.status).toBe(1);
  expect(failed.stderr).toMatch(/^terabag: no bundle here.*\(bad_model\)\n$/);
  const tight = terabag(['plan', 'model', '--shards', '2', '--memory-limit', '100KiB', '-o', 'tight.json']);
  expect(tight).toMatchObject({ status: 1, stderr: expect.stringMatching(/does not fit.*needs \d+ bytes.*room for/) });
  expect(existsSync(join(dir, 'tight.json'))).toBe(false);
});

test('inspect, verify and plan print JSON that says what the bundle and the plan hold', () => {
  const inspected = JSON.parse(terabag(['inspect', 'model', '--json']).stdout);
  expect(inspected.tables.map(({ rows, dim }: { rows: number; dim: number }) => [rows, dim])).toEqual(
    tablesOf(shape).map(({ rows, dim }) => [rows, dim]),
  );
  expect(JSON.parse(terabag(['verify', 'model', '--json']).stdout)).toMatchObject({ sound: true, problems: [] });
  const planned = JSON.parse(terabag(['plan', 'model', '--shards', '3', '-o', 'plan.json', '--json']).stdout);
  expect(planned.shards.reduce((sum: number, { tables }: { tables: number }) => sum + tables, 0)).toBe(26);
  expect(planned.model.hash).toBe(inspected.hash);
});

const readJson = (name: string) => JSON.parse(readFileSync(join(dir, name), 'utf8'));

test('profile samples requests into the means of each table, the same for the same file', () => {
  const { status, stdout, stderr } = terabag(['profile', 'model', 'requests.jsonl', '-o', 'profile.json', '--json']);
  expect([status, stderr]).toEqual([0, '']);
  const profile = JSON.parse(stdout);
  expect(readJson('profile.json')).toEqual(profile);
  expect(profile).toMatchObject({ source: 'requests', requests: 40 });
  for (const [at, { name }] of tablesOf(shape).entries()) {
    const lookups = requests.reduce((sum, { sparse }) => sum + (sparse[`${name}_bag`]?.indices.length ?? 0), 0) / requests.length;
    expect(profile.tables[at].table).toBe(name);
    expect(profile.tables[at].lookups).toBeCloseTo(lookups);
  }
  const sample = (): string => terabag(['profile', 'model', 'requests.jsonl', '--requests', '10', '--json']).stdout;
  expect(JSON.parse(sample())).toMatchObject({ requests: 10 });
  expect(sample()).toBe(sample());
  expect(terabag(['profile', 'model', 'requests.jsonl']).stdout).toMatch(/^40 requests sampled; items: mean .*\n[\s\S]*table_25/);
});

test('profile samples from all over the file, each request as likely', () => {
  // Request n of 300 has n % 100 + 1 items: the mean of 100 is near 50.5, of the first 100 of a sorted file it would be 17.
  const generator = new RequestGenerator(requestShape(shape), 6);
  const items = Array.from({ length: 300 }, (_, n) => 1 + Math.floor(n / 3));
  const lines = items.map((count) => JSON.stringify(generator.next(count), plain));
  const sampled = terabag(['profile', 'model', '-', '--requests', '100', '--json'], lines.join('\n'));
  const { mean } = JSON.parse(sampled.stdout).items;
  // The mean's standard error is 2.4; the seed is fixed.
  expect(mean).toBeGreaterThan(42);
  expect(mean).toBeLessThan(59);
});

test('profile leaves out requests that the model does not answer, and fails when there is no other', () => {
  const [good = ''] = readFileSync(join(dir, 'requests.jsonl'), 'utf8').split('\n');
  const outOfRange = JSON.parse(good);
  outOfRange.sparse.table_02_bag.indices[0] = 10 ** 9;
  const bad = `{ nonsense\n${JSON.stringify(outOfRange)}\n{"sparse":{}}`;
  const some = terabag(['profile', 'model', '-', '--json'], `\n${bad}\n${good}\n`);
  expect(JSON.parse(some.stdout).requests).toBe(1);
  expect(some.stderr).toMatch(/^terabag: warning: 3 of the sampled requests are left out, the first for: line 2: .*\n$/);
  expect(terabag(['profile', 'model', '-'], JSON.stringify(outOfRange))).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/line 1: index out of range for table: table_02.*\(index_out_of_range\)/),
  });
  expect(terabag(['profile', 'model', '-'], '\n')).toMatchObject({ status: 1, stderr: expect.stringMatching(/no requests to sample/) });
});

test('plan takes every strategy, and writes the profile that it used beside the plan', () => {
  const plan = (...more: string[]) => {
    const { status, stdout, stderr } = terabag(['plan', 'model', '-o', 'made.json', '--json', ...more]);
    expect([status, stderr]).toEqual([0, '']);
    return JSON.parse(stdout);
  };
  terabag(['profile', 'model', 'requests.jsonl', '-o', 'profile.json']);
  for (const strategy of STRATEGIES) {
    const planned = plan('--strategy', strategy, '--shards', '3', '--requests', 'requests.jsonl');
    expect(planned).toMatchObject({ strategy, profile: { file: 'made.profile.json', source: 'requests', requests: 40 } });
    expect(readJson('made.json').strategy).toBe(strategy);
    expect(readJson('made.profile.json')).toEqual(readJson('profile.json'));
    const held = planned.shards as { shard: string; tables: number; bytes: number; rows: number }[];
    expect(held.reduce((sum, { tables }) => sum + tables, 0)).toBe(26);
    const rows = (readJson('made.profile.json').tables as { lookups: number }[]).reduce((sum, { lookups }) => sum + lookups, 0);
    expect(held.reduce((sum, shard) => sum + shard.rows, 0)).toBeCloseTo(rows);
  }
  const split = plan('--shards', '9', '--memory-limit', '160KiB', '--profile', 'profile.json');
  expect(split.shards.every(({ bytes }: { bytes: number }) => bytes <= 160 * 1024)).toBe(true);
  expect(split.shards.some(({ parts }: { parts: number }) => parts > 0)).toBe(true);
  const bytes = shapeBytes(shape);
  const packed = plan('--strategy', 'nsbp', '--shard-size', `${bytes / 3 / 2 ** 30}GiB`).shards as { bytes: number }[];
  expect([3, 4]).toContain(packed.length);
  expect(Math.max(...packed.map((shard) => shard.bytes))).toBeLessThanOrEqual(bytes / 3 + 1);
  expect(plan('--strategy', 'nsbp', '--shards', '2', '--local', '0.1MiB').shards.at(-1)).toMatchObject({ shard: 'main' });
  expect(plan('--endpoints', 'tcp://a:1,tcp://b:1').shards.flatMap(({ endpoints }: { endpoints: string[] }) => endpoints)).toEqual([
    'tcp://a:1',
    'tcp://b:1',
  ]);
});

test('profile and plan sample safetensors of many requests as they do JSONL', async () => {
  await writeRequests(join(dir, 'archive.safetensors'), requests);
  const profiles = ['requests.jsonl', 'archive.safetensors'].map((file) => terabag(['profile', bundle, file, '--requests', '7', '--json']));
  expect(profiles[1]!.stdout).toBe(profiles[0]!.stdout);
  expect(JSON.parse(profiles[1]!.stdout)).toMatchObject({ source: 'requests', requests: 7 });
  const planned = terabag(['plan', bundle, '--shards', '2', '--requests', 'archive.safetensors', '-o', 'archive.json', '--json']);
  expect(JSON.parse(planned.stdout)).toMatchObject({ profile: { source: 'requests', requests: 40 } });
});

test('plan refuses options that say nothing or cannot be, and outputs that cannot be written', () => {
  const refused = (status: number, message: RegExp, ...options: string[]): void => {
    const plan = terabag(['plan', bundle, '--shards', '2', '-o', 'refused.json', ...options]);
    expect(plan).toMatchObject({ status, stdout: '', stderr: expect.stringMatching(message) });
    expect(existsSync(join(dir, 'refused.json'))).toBe(false);
  };
  refused(2, /--shard-size needs --strategy nsbp/, '--shard-size', '1GiB');
  refused(1, /and to differ: tcp:\/\/a:1 \(invalid_argument\)\n$/, '--endpoints', 'tcp://a:1,tcp://a:1');
  refused(1, /have to be tcp:\/\/host:port.*: http:\/\/a \(invalid_argument\)\n$/, '--endpoints', 'http://a,tcp://a:1');
  refused(1, /file cannot be written \(ENOENT\): none\/plan\.json \(invalid_argument\)\n$/, '-o', 'none/plan.json');
});

test('up of a plan without sparse shards says so, and ends', () => {
  expect(terabag(['plan', bundle, '--strategy', 'singular', '-o', 'singular.json']).status).toBe(0);
  const { status, stdout } = terabag(['up', 'singular.json', '--bundle', bundle, '--free-ports', 'live-singular.json']);
  expect([status, stdout]).toEqual([0, expect.stringMatching(/no sparse shards, main holds all tables\nall: stopped\n$/)]);
  const [local, main] = [[], ['--plan', 'live-singular.json']].map((more) =>
    terabag(['predict', 'requests.jsonl', '--bundle', bundle, ...more]),
  );
  expect([main!.status, main!.stdout]).toEqual([0, local!.stdout]);
});

test('plan without requests says that none were sampled, and refuses the profile of another model', () => {
  const { stdout } = terabag(['plan', 'model', '--shards', '2', '-o', 'unsampled.json']);
  expect(stdout).toMatch(/^capacity-balanced: 26 tables, 2 sparse shards; no requests were sampled: .* 64 items assumed\n/);
  expect(readJson('unsampled.profile.json')).toMatchObject({ source: 'spec', requests: 0 });
  const other = readJson('unsampled.profile.json');
  writeFileSync(join(dir, 'other.json'), JSON.stringify({ ...other, model: { ...other.model, hash: 'd'.repeat(64) } }));
  expect(terabag(['plan', 'model', '--shards', '2', '--profile', 'other.json', '-o', 'refused.json'])).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/profile is of another model: demo .*\(model_mismatch\)/),
  });
  expect(existsSync(join(dir, 'refused.json'))).toBe(false);
  const both = ['--profile', 'other.json', '--requests', 'requests.jsonl'];
  expect(terabag(['plan', 'model', '--shards', '2', ...both, '-o', 'refused.json'])).toMatchObject({ status: 2 });
  expect(terabag(['plan', 'model', '--strategy', 'nsbp', '-o', 'refused.json'])).toMatchObject({ status: 2 });
});

test('verify names a damaged file and exits with 1', async () => {
  const path = join(bundle, 'tables/table_03.safetensors');
  const sound = readFileSync(path);
  const damaged = Buffer.from(sound);
  damaged[damaged.length - 1] = (damaged.at(-1) as number) ^ 4;
  writeFileSync(path, damaged);
  expect(terabag(['verify', 'model'])).toMatchObject({ status: 1, stderr: expect.stringMatching(/^terabag: file is damaged: .*table_03/) });
  writeFileSync(path, sound);
  expect(terabag(['verify', 'model'])).toMatchObject({ status: 0, stdout: 'all files are sound\n', stderr: '' });
});

test('predict gives a line of scores for each line, in order, as the API does', async () => {
  const { status, stdout, stderr } = terabag(['predict', 'requests.jsonl', '--bundle', 'model']);
  expect([status, stderr]).toEqual([0, '']);
  const local = await openLocal(bundle, { deadlineMs: 10_000 });
  const lines = stdout.trimEnd().split('\n');
  expect(lines.length).toBe(requests.length);
  for (const [n, request] of requests.entries()) {
    expect(JSON.parse(lines[n] as string)).toEqual({ scores: Array.from((await local.predict(request)).scores) });
  }
  await local.close();
});

test('predict answers a bad line with its error, scores the others, and exits with 1', () => {
  const good = readFileSync(join(dir, 'requests.jsonl'), 'utf8').split('\n')[0] as string;
  const outOfRange = JSON.parse(good);
  outOfRange.sparse.table_02_bag.indices[0] = 10 ** 9;
  const { status, stdout, stderr } = terabag(
    ['predict', '-', '--bundle', 'model'],
    `${good}\n{ nonsense\n\n{"sparse":{},"extra":1}\n${JSON.stringify(outOfRange)}\n${good}`,
  );
  const [first, nonsense, extra, bad, last, ...rest] = stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(rest).toEqual([]);
  expect(first).toEqual(last);
  expect(nonsense.error).toMatchObject({ code: 'invalid_argument', line: 2 });
  expect(extra.error).toMatchObject({ code: 'invalid_argument', line: 4, message: expect.stringContaining('extra') });
  expect(bad.error).toMatchObject({ code: 'index_out_of_range', table: 'table_02', position: 0, line: 5 });
  for (const { error } of [nonsense, extra, bad]) expect(error.message).toMatch(new RegExp(`^line ${error.line}: (?!line)`));
  expect([status, stderr]).toEqual([1, 'terabag: 3 of 5 requests failed; their lines say why\n']);
});

test('predict and profile name the request of a safetensors file that the model does not answer', async () => {
  const [first, second] = requests as [PredictRequest, PredictRequest];
  const bad = { ...second, items: 2 ** 20 + 1 };
  await writeRequests(join(dir, 'one-bad.safetensors'), [first, bad, first]);
  const { status, stdout } = terabag(['predict', 'one-bad.safetensors', '--bundle', 'model']);
  const lines = stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(status).toBe(1);
  expect(lines).toMatchObject([{ scores: [expect.any(Number)] }, { error: { line: 2, field: 'items' } }, { scores: [expect.any(Number)] }]);
  expect(lines[1].error.message).toMatch(/^request 2: items has to be an integer between 0 and/);
  expect(terabag(['profile', 'model', 'one-bad.safetensors']).stderr).toMatch(/left out, the first for: request 2: items has to be/);
});

test('predict takes a safetensors request and writes its scores', async () => {
  const request = requests[6] as (typeof requests)[number];
  const bytes = (array: ArrayBufferView): Uint8Array => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  const dense = request.dense['dense'] as Float32Array;
  const tensors = Object.entries(request.sparse).flatMap(([bag, { indices, offsets, weights }]) => [
    { name: `sparse.${bag}.indices`, dtype: 'I32', shape: [indices.length], data: bytes(indices as Int32Array) },
    { name: `sparse.${bag}.offsets`, dtype: 'U32', shape: [offsets.length], data: bytes(offsets as Uint32Array) },
    ...(weights === undefined
      ? []
      : [{ name: `sparse.${bag}.weights`, dtype: 'F32', shape: [weights.length], data: bytes(weights as Float32Array) }]),
  ]);
  await writeSafetensors(join(dir, 'request.safetensors'), [
    { name: 'dense.dense', dtype: 'F32', shape: [7, 13], data: bytes(dense) },
    ...tensors,
  ]);
  const done = terabag(['predict', 'request.safetensors', '--bundle', 'model', '-o', 'scores.safetensors', '--json']);
  expect(JSON.parse(done.stdout)).toMatchObject({ scored: 1, failed: 0 });
  const header = await readSafetensorsHeader(join(dir, 'scores.safetensors'));
  const tensor = header.tensors.get('scores');
  expect(tensor?.shape).toEqual([7, 1]);
  const local = await openLocal(bundle, { deadlineMs: 10_000 });
  expect(new Float32Array((await readTensor(header, tensor as NonNullable<typeof tensor>)).buffer)).toEqual(
    (await local.predict(request)).scores,
  );
  await local.close();
});

test('predict ends when its reader goes away', () => {
  const lines = Array.from({ length: 200 }, () => readFileSync(join(dir, 'requests.jsonl'), 'utf8')).join('');
  writeFileSync(join(dir, 'many.jsonl'), lines);
  const piped = spawnSync(
    'bash',
    ['-c', `"$0" "$1" predict many.jsonl --bundle model | head -n 1; exit "\${PIPESTATUS[0]}"`, process.execPath, main],
    { cwd: dir, encoding: 'utf8' },
  );
  expect(piped).toMatchObject({ status: 1, stderr: expect.stringMatching(/nobody reads the scores/) });
  expect(piped.stdout.trimEnd().split('\n').length).toBe(1);
});

test('requests are read from stdin, and a directory there is an error', () => {
  const read = (redirect: string) =>
    spawnSync('bash', ['-c', `"$0" "$1" predict - --bundle model ${redirect}`, process.execPath, main], { cwd: dir, encoding: 'utf8' });
  const { stdout } = terabag(['predict', 'requests.jsonl', '--bundle', 'model']);
  expect(read('< requests.jsonl')).toMatchObject({ status: 0, stdout });
  expect(read('< model')).toMatchObject({
    status: 1,
    stdout: '',
    stderr: expect.stringMatching(/^terabag: requests cannot be read \(EISDIR\): -.*\(invalid_argument\)\n$/),
  });
});

test('a shard listens on what an endpoint can be, and leaves a file that lies there alone', () => {
  expect(terabag(['plan', bundle, '--shards', '2', '-o', 'listen.json']).status).toBe(0);
  const shard = (endpoint: string) => terabag(['shard', 'listen.json', '--name', 'shard-0', '--bundle', bundle, '--listen', endpoint]);
  for (const strange of ['udp://127.0.0.1:5000', 'tcp://127.0.0.1', 'tcp://127.0.0.1:65536', 'tcp://:5000', '127.0.0.1:5000', 'ipc://'])
    expect(shard(strange)).toMatchObject({ status: 1, stderr: expect.stringContaining('listens on tcp://host:port') });
  writeFileSync(join(dir, 'precious'), 'data');
  expect(shard(`ipc://${join(dir, 'precious')}`)).toMatchObject({ status: 1, stderr: expect.stringMatching(/EEXIST.*not by a socket/) });
  expect(readFileSync(join(dir, 'precious'), 'utf8')).toBe('data');
});

test('plan places replicas apart, and says of an epoch', () => {
  const hosts = ['a', 'a', 'b', 'b'].map((host, at) => `tcp://${host}:${at + 1}`).join(',');
  const plan = (...args: string[]) => terabag(['plan', bundle, '--shards', '2', '--replicas', '2', '-o', 'apart.json', ...args]);
  expect(plan('--endpoints', hosts, '--spread', 'rack=1,2,3,4', '--spread', 'zone=x,x,y,y', '--epoch', '7').status).toBe(0);
  expect(readJson('apart.json')).toMatchObject({
    epoch: 7,
    shards: [{ endpoints: ['tcp://a:1', 'tcp://b:3'] }, { endpoints: ['tcp://a:2', 'tcp://b:4'] }],
  });
  expect(plan('--endpoints', hosts, '--spread', 'zone=x,x,x,y')).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/3 of 4 endpoints are in zone x, of which 2 shards can use 2, short by 1 \(does_not_fit\)\n$/),
  });
  expect(plan('--endpoints', hosts, '--spread', 'zone=x')).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/which zone it is in: 1 of 4/),
  });
  expect(plan('--endpoints', hosts, '--spread', 'zone')).toMatchObject({ status: 2, stderr: expect.stringContaining('NAME=VALUE') });
  expect(plan('--endpoints', hosts, '--host-memory', '1KiB')).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/room for 1024, short by/),
  });
  expect(plan('--endpoints', 'tcp://a:1')).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/2 endpoints per shard.*: 1 endpoints, 2 shards/),
  });
});

test('a shard with several endpoints has to be told which of them it is', () => {
  expect(terabag(['plan', bundle, '--shards', '2', '-o', 'replicas.json']).status).toBe(0);
  const plan = readJson('replicas.json');
  plan.shards[0].endpoints.push('ipc:///nowhere/at-all');
  writeFileSync(join(dir, 'replicas.json'), JSON.stringify(plan));
  const shard = (...args: string[]) => terabag(['shard', 'replicas.json', '--name', 'shard-0', '--bundle', bundle, ...args]);
  expect(shard()).toMatchObject({ status: 1, stderr: expect.stringMatching(/which replica .* shard-0: 0 to 1 \(invalid_argument\)/) });
  expect(shard('--replica', '2')).toMatchObject({ status: 1, stderr: expect.stringMatching(/no such replica of shard shard-0.*: 2 \(/) });
  expect(shard('--replica', '1')).toMatchObject({ status: 1, stderr: expect.stringContaining('ipc:///nowhere/at-all') });
});

test('a command that cannot open its own files says which limit to raise', () => {
  const limited = spawnSync('bash', ['-c', 'ulimit -n 28; exec "$0" "$1" inspect model', process.execPath, main], {
    cwd: dir,
    encoding: 'utf8',
  });
  expect(limited).toMatchObject({ status: 1, stdout: '', stderr: expect.stringMatching(/^terabag: EMFILE.*ulimit -n.*\(overloaded\)\n$/) });
});

test('a command whose stderr nobody reads does what it is asked', async () => {
  const [good = ''] = readFileSync(join(dir, 'requests.jsonl'), 'utf8').split('\n');
  writeFileSync(join(dir, 'one-bad.jsonl'), `{ nonsense\n${good}\n`);
  const child = spawn(process.execPath, [main, 'profile', 'model', 'one-bad.jsonl', '-o', 'unheard.json'], { cwd: dir });
  // It warns of the line that is left out.
  child.stderr.destroy();
  expect(await once(child, 'close')).toEqual([0, null]);
  expect(readJson('unheard.json')).toMatchObject({ requests: 1 });
});

/** Starts `terabag up` and waits until all shards are up; gives the process, the shards' pids, and what it printed. */
async function up(...args: string[]): Promise<{ child: ChildProcess; pids: number[]; text: string }> {
  const child = spawn(process.execPath, [main, 'up', ...args, '--json'], { cwd: dir, stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  for await (const piece of child.stdout as NonNullable<typeof child.stdout>) {
    text += String(piece);
    if (text.includes('"what":"up"')) break;
  }
  return { child, pids: [...text.matchAll(/pid (\d+)/g)].map(([, pid]) => Number(pid)), text };
}

function runs(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

test('up serves a plan until SIGTERM: predict over its shards writes the same file as local, and no shard stays', async () => {
  terabag(['plan', 'model', '--shards', '3', '-o', 'plan.json']);
  const { child, pids } = await up('plan.json', '--bundle', 'model', '--free-ports', 'live.json');
  try {
    expect(pids.length).toBe(3);
    expect(terabag(['predict', 'requests.jsonl', '--bundle', 'model', '--plan', 'live.json', '-o', 'sharded.jsonl'])).toMatchObject({
      status: 0,
      stderr: '',
    });
    expect(terabag(['predict', 'requests.jsonl', '--bundle', 'model', '-o', 'local.jsonl'])).toMatchObject({ status: 0, stderr: '' });
    const localScores = readFileSync(join(dir, 'local.jsonl'), 'utf8');
    expect(readFileSync(join(dir, 'sharded.jsonl'), 'utf8')).toBe(localScores);
    for (const how of [['--rpc', 'paper', '--batch-items', '2'], ['--dedup']]) {
      const args = ['predict', 'requests.jsonl', '--bundle', 'model', '--plan', 'live.json', ...how, '-o', 'other.jsonl'];
      expect(terabag(args)).toMatchObject({ status: 0, stderr: '' });
      expect(readFileSync(join(dir, 'other.jsonl'), 'utf8')).toBe(localScores);
    }
  } finally {
    child.kill('SIGTERM');
  }
  expect(await once(child, 'exit')).toEqual([0, null]);
  expect(pids.filter(runs)).toEqual([]);
});

test('up --no-restart ends with 1 and says so when its last shard has ended', async () => {
  expect(terabag(['plan', bundle, '--shards', '2', '-o', 'mortal.json']).status).toBe(0);
  const up = spawn(
    process.execPath,
    [main, 'up', 'mortal.json', '--bundle', bundle, '--free-ports', 'live.json', '--no-restart', '--json'],
    {
      cwd: dir,
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  const said = { stdout: '', stderr: '' };
  for (const stream of ['stdout', 'stderr'] as const) up[stream].on('data', (chunk) => (said[stream] += chunk));
  const exited = once(up, 'exit');
  await expect.poll(() => said.stdout, { timeout: 30_000 }).toMatch(/"up"/);
  const pids = [...said.stdout.matchAll(/\(pid (\d+)\)/g)].map(([, pid]) => Number(pid));
  expect(pids.length).toBe(2);
  for (const pid of pids) process.kill(pid, 'SIGKILL');
  expect(await exited).toEqual([1, null]);
  expect(said.stderr).toMatch(/every shard has ended.*\(shard_unavailable\)\n$/);
}, 60_000);

test('up warns of tables that a plan splits by rows and nobody published, and not of published ones', async () => {
  terabag(['plan', 'model', '--shards', '2', '-o', 'two.json']);
  const plan = readJson('two.json');
  plan.tables[0].parts = ['shard-0', 'shard-1'];
  writeFileSync(join(dir, 'split.json'), JSON.stringify(plan));
  expect(terabag(['publish', 'split.json', 'split-published', '--bundle', 'model']).status).toBe(0);
  for (const [where, warned] of [
    ['model', true],
    ['split-published', false],
  ] as const) {
    const { child, text } = await up('split.json', '--bundle', where, '--free-ports', 'live-split.json');
    child.kill('SIGTERM');
    expect(await once(child, 'exit')).toEqual([0, null]);
    expect([where, /"what":"warning".*terabag publish split\.json <out> --bundle model/.test(text)]).toEqual([where, warned]);
  }
});

test('demo compares sharded with local scores, draws the picture, and removes the model', () => {
  const { status, stdout, stderr } = terabag(['demo', '--size', '4MiB', '--shards', '2', '--requests', '10', '--json']);
  expect([status, stderr]).toEqual([0, '']);
  const { equal, latenciesMs, report } = JSON.parse(stdout);
  expect(equal).toBe(10);
  expect(latenciesMs.sharded.count).toBe(10);
  expect(readFileSync(report, 'utf8')).toMatch(/<svg[\s\S]*sharded[\s\S]*<svg[\s\S]*shard-1/);
  expect(existsSync(join(dir, 'demo-output/model'))).toBe(false);
});

test('a demo that is interrupted removes its model and leaves no shard', async () => {
  const child = spawn(process.execPath, [main, 'demo', '--size', '4MiB', '--requests', '100000', '-o', 'interrupted'], {
    cwd: dir,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  child.stdout.on('data', (piece) => {
    text += String(piece);
    // Printed when the shards are up and ranking begins.
    if (text.includes('shards: ')) child.kill('SIGINT');
  });
  expect(await once(child, 'close')).toEqual([130, null]);
  const pids = [...text.matchAll(/pid (\d+)/g)].map(([, pid]) => Number(pid));
  expect(pids.length).toBe(4);
  for (let wait = 0; wait < 50 && pids.some(runs); wait++) await new Promise((resolve) => setTimeout(resolve, 100));
  expect(pids.filter(runs)).toEqual([]);
  expect(existsSync(join(dir, 'interrupted/model'))).toBe(false);
});

test.each([
  ['TERABAG_ISA', 'sse9', /^terabag: TERABAG_ISA names kernels that do not run here.* \(native_addon\)\n$/],
  ['TERABAG_THREADS', 'many', /^terabag: TERABAG_THREADS has to be an integer between 1 and 256: many \(native_addon\)\n$/],
  ['TERABAG_SPIN_US', '1001', /^terabag: TERABAG_SPIN_US has to be an integer between 0 and 1000: 1001 \(native_addon\)\n$/],
])('%s=%s, with which the addon does not load, is one line on stderr', (name, value, line) => {
  const inspect = spawnSync(process.execPath, [main, 'inspect', bundle], { encoding: 'utf8', env: { ...process.env, [name]: value } });
  expect(inspect).toMatchObject({ status: 1, stdout: '', stderr: expect.stringMatching(line) });
});

test('predict --precision --compare says how far the scores are from fp32', () => {
  // The scalar kernels have every precision on every CPU.
  const predict = (isa: string, precision: string) =>
    spawnSync(
      process.execPath,
      [main, 'predict', 'requests.jsonl', '--bundle', bundle, '-o', `${precision}.jsonl`, '--precision', precision, '--compare', '--json'],
      { cwd: dir, encoding: 'utf8', env: { ...process.env, TERABAG_ISA: isa } },
    );
  for (const [precision, most] of [
    ['fp32', 0],
    ['bf16', 0.02],
    ['int8', 0.05],
  ] as const) {
    const { status, stdout } = predict('scalar', precision);
    expect(status).toBe(0);
    const { scoreError, scored } = JSON.parse(stdout) as { scored: number; scoreError: { scores: number; max: number; mean: number } };
    expect(scored).toBe(40);
    expect(scoreError.scores).toBe(requests.reduce((sum, { items = 0 }) => sum + items, 0));
    expect(scoreError.max).toBeLessThanOrEqual(most);
    expect(scoreError.max > 0 && scoreError.mean > 0).toBe(precision !== 'fp32');
  }
  if (process.arch === 'x64') {
    const { status, stderr } = predict('avx2', 'int8');
    expect([status, stderr]).toEqual([1, expect.stringContaining('avx2 kernels do not have on this CPU; it has fp32')]);
  }
});

test('plan --strategy auto predicts, compares strategies, and answers what-if', () => {
  const args = [
    'plan',
    'model',
    '--strategy',
    'auto',
    '--shards',
    '4',
    '--memory-limit',
    '400KiB',
    '--requests',
    'requests.jsonl',
    '-o',
    'auto.json',
  ];
  const { status, stdout, stderr } = terabag([...args, '--explain', '--what-if', 'shards=8,format=int8', '--json']);
  expect([status, stderr]).toEqual([0, '']);
  const { strategy, prediction, strategies, whatIf, shards } = JSON.parse(stdout);
  expect(strategy).toBe('auto');
  expect(strategies.map((compared: { strategy: string }) => compared.strategy)).toEqual([...STRATEGIES, 'auto']);
  expect(strategies[0].refused).toMatchObject({ code: 'does_not_fit', message: expect.stringMatching(/does not fit on main/) });
  for (const { prediction: other } of strategies) if (other !== null) expect(prediction.p99Us).toBeLessThanOrEqual(other.p99Us);
  for (const { bytes } of shards) expect(bytes).toBeLessThanOrEqual(400 * 1024);
  // A model of int8 rows is a quarter as large, and its ids are sent as before.
  expect(whatIf.shards.length).toBeLessThan(prediction.shards.length);
  expect(readJson('auto.json').strategy).toBe('auto');

  const text = terabag([...args, '--explain', '--what-if', 'items=200']).stdout;
  expect(text).toMatch(/costs: default .*, measured on /);
  expect(text).toMatch(/bounding/);
  expect(text).toMatch(/singular[\s\S]*does not fit/);
  expect(text).toMatch(/items=200: P50 \d+ %, P99 \d+ %, CPU \d+ % of what it is as given/);
});

test.each([
  [['plan', 'model', '--shards', '2', '-o', 'x', '--local-mb', '64'], /It is --local 64MiB now/],
  [['plan', 'model', '--strategy', 'nsbp', '-o', 'x', '--shard-gb', '48'], /It is --shard-size 48GiB now/],
  [['plan', 'model', '--shards', '2', '-o', 'x', '--memory-limit', '64G'], /size with its unit .*: 64GiB\./],
  [['predict', 'requests.jsonl', '--bundle', 'model', '--deadline-ms', '500'], /It is --deadline 500ms now/],
  [['predict', 'requests.jsonl', '--bundle', 'model', '--deadline', '500'], /time with its unit: 500ms or 500s/],
  [['bench', '--bundle', 'model', '--serial', '--duration', '10'], /time with its unit: 10ms or 10s/],
  [['demo', '--size', '4M'], /size with its unit .*: 4MiB\./],
  [['up', 'plan.json', '--bundle', 'model', '--drain', '3'], /time with its unit: 3ms or 3s/],
  [['up', 'plan.json', '--bundle', 'model', '--log-level', 'verbose'], /trace, debug, info/],
  [['shard', 'plan.json', '--bundle', 'model', '--name', 'shard-0', '--log-level', 'toString'], /trace, debug, info/],
])('%j is a wrong usage that names what is right', (args, message) => {
  expect(terabag(args)).toMatchObject({ status: 2, stdout: '', stderr: expect.stringMatching(message) });
});

test('auto with room on main for all tables says in its first line why it has no shard', () => {
  const first = (...more: string[]) =>
    terabag(['plan', 'model', '--strategy', 'auto', '--shards', '8', '-o', 'none.json', ...more]).stdout.split('\n')[0];
  expect(first()).toMatch(/^auto: no sparse shard, since main may hold all tables: there is no --memory-limit, .*--local 0B/);
  expect(first('--memory-limit', '1GiB')).toMatch(/since main holds all tables within --memory-limit,/);
  expect(first('--local', '1GiB')).toMatch(/since main holds all tables within --local,/);
  expect(first('--local', '0B')).toMatch(/^auto: 26 tables, \d sparse shards?;/);
});

test('tables are printed without index, frame and quotes, within 80 columns', () => {
  for (const args of [
    ['inspect', 'model'],
    ['inspect', 'model', '--residency'],
    ['profile', 'model', 'requests.jsonl'],
    ['plan', 'model', '--strategy', 'nsbp', '--shards', '3', '-o', 'table.json', '--explain', '--what-if', 'shards=2'],
    ['pack', 'model', '-o', 'packed', '--format', 'int8'],
    ['publish', 'table.json', 'table-published', '--bundle', 'model'],
    ['bench', '--bundle', 'model', '--duration', '200ms', '--warm-up', '0s', '--serial'],
    ['bench', '--bundle', 'model', '--duration', '100ms', '--warm-up', '0s', '--batch-sweep', '1,8,64', '--repeats', '1'],
  ]) {
    const { status, stdout } = terabag(args);
    expect([args, status]).toEqual([args, 0]);
    expect(stdout).not.toMatch(/[│┌─]|\(index\)|(?:^|\s)'/m);
    const lines = stdout.split('\n').filter((line) => /^\S+.* {2}\S/.test(line));
    expect(lines.length).toBeGreaterThan(1);
    for (const line of lines) expect([line, line.length <= 80]).toEqual([line, true]);
  }
});

test('plan --strategy auto --local 0B leaves nothing on main', () => {
  const args = ['plan', 'model', '--strategy', 'auto', '--shards', '2', '-o', 'remote.json', '--json', '--local'];
  expect(terabag([...args, '0B']).stderr).toBe('');
  expect(readJson('remote.json').tables.flatMap(({ parts }: { parts: string[] }) => parts)).not.toContain('main');
  expect(terabag([...args, '-1B'])).toMatchObject({ status: 2, stderr: expect.stringMatching(/has to be a size with its unit/) });
});

test('calibrate measures costs that explain its own trials somewhat, and plan predicts with them', () => {
  const { status, stdout, stderr } = terabag(['calibrate', '--quick', '--json', '-o', 'costs.json']);
  expect([status, stderr]).toEqual([0, '']);
  const { costs, trials } = JSON.parse(stdout);
  expect(readJson('costs.json')).toEqual(costs);
  for (const { ns, inCacheNs } of costs.lookups) {
    expect(inCacheNs).toBeGreaterThan(0);
    expect(inCacheNs).toBeLessThanOrEqual(ns);
  }
  expect(new Set(costs.lookups.map(({ format }: { format: string }) => format)).size).toBe(6);
  expect(costs.dense.nsPerMac).toBeGreaterThan(0);
  expect(trials.length).toBeGreaterThan(4);
  for (const { name, mainCpuUs, shardCpuUs, predictedCpuUs } of trials) {
    expect(mainCpuUs).toBeGreaterThan(0);
    expect(shardCpuUs > 0).toBe(!name.includes(', 0 shards'));
    expect(predictedCpuUs).toBeGreaterThan(0);
  }
  // A few requests on a machine that does other things: costs of the right order, and no more.
  const ratios = trials.map(({ cpuUs, predictedCpuUs }: { cpuUs: number; predictedCpuUs: number }) => Math.log(predictedCpuUs / cpuUs));
  expect(Math.abs(ratios.reduce((sum: number, ratio: number) => sum + ratio, 0) / ratios.length)).toBeLessThan(Math.log(3));

  const planned = terabag(['plan', 'model', '--shards', '2', '--costs', 'costs.json', '--explain', '--json', '-o', 'measured.json']);
  expect([planned.status, planned.stderr]).toEqual([0, '']);
  expect(JSON.parse(planned.stdout).costs).toBe(costs.machine);
  expect(terabag(['calibrate', '--quick']).stdout).toMatch(/measured on [\s\S]*main\.usPerRpc[\s\S]*by the costs/);
}, 120_000);

// What they would read or measure is not there: it is not asked for.
test.each<[string, string[]]>([
  ['--output', ['profile', 'none', 'none.jsonl', '-o']],
  ['--output', ['calibrate', '-o']],
  ['--output', ['plan', 'none', '--shards', '2', '-o']],
  ['--map', ['plan', 'none', '--shards', '2', '-o', 'unwritten.json', '--map']],
  ['--output', ['predict', 'none.jsonl', '--bundle', 'none', '-o']],
  ['--trace', ['predict', 'none.jsonl', '--bundle', 'none', '-o', 'unwritten.jsonl', '--trace']],
  ['--output', ['requests', 'none', '-o']],
  ['--output', ['report', 'none.json', '-o']],
  ['--output', ['pack', 'none.safetensors', '--format', 'int8', '-o']],
  ['--free-ports', ['up', 'none.json', '--bundle', 'none', '--free-ports']],
  ['--json', ['bench', '--bundle', 'none', '--serial', '--json']],
])(
  '%s that cannot be written is refused before anything is measured or read: %j',
  (option, args) => {
    for (const [path, reason] of [
      ['none/out.json', 'ENOENT'],
      ['requests.jsonl/out.json', 'ENOTDIR'],
      ['model', 'EISDIR'],
    ] as const) {
      // A directory may be what pack is to write to.
      if (args[0] === 'pack' && reason === 'EISDIR') continue;
      expect(terabag([...args, path])).toMatchObject({
        status: 1,
        stdout: '',
        stderr: `terabag: ${option}: file cannot be written (${reason}): ${path} (invalid_argument)\n`,
      });
    }
    for (const name of ['none', 'unwritten.json', 'unwritten.jsonl']) expect(existsSync(join(dir, name))).toBe(false);
  },
  30_000,
);

test.each<[string, string[]]>([
  ['--output and --trace', ['predict', 'none.jsonl', '--bundle', 'none', '-o', 'same.json', '--trace', './same.json']],
  ['<requests> and --output', ['predict', 'requests.jsonl', '--bundle', 'none', '-o', 'model/../requests.jsonl']],
  ['--plan and --trace', ['predict', 'none.jsonl', '--bundle', 'none', '--plan', 'same.json', '--trace', 'same.json']],
  ['--output and --map', ['plan', 'none', '--shards', '2', '-o', 'same.html', '--map', 'model/../same.html']],
  ['the profile beside --output and --map', ['plan', 'none', '--shards', '2', '-o', 'same', '--map', 'linked/same.profile.json']],
  ['--profile and --output', ['plan', 'none', '--shards', '2', '--profile', 'same.json', '-o', 'same.json']],
  ['--requests and the profile beside --output', ['plan', 'none', '--shards', '2', '--requests', 'same.profile.json', '-o', 'same.json']],
  ['--costs and --output', ['plan', 'none', '--shards', '2', '--costs', 'same.json', '-o', 'same.json']],
  ['--plan and --json', ['bench', '--bundle', 'none', '--serial', '--plan', 'same.json', '--json', 'same.json']],
  ['--requests and --json', ['bench', '--bundle', 'none', '--serial', '--requests', 'requests.jsonl', '--json', 'requests.jsonl']],
  ['<requests> and --output', ['profile', 'none', 'requests.jsonl', '-o', 'requests.jsonl']],
  ['<results> and --output', ['report', 'same.json', '-o', 'same.json']],
  ['<plan> and --free-ports', ['up', 'same.json', '--bundle', 'none', '--free-ports', 'same.json']],
])('%s that are one file are wrong usage: %j', (names, args) => {
  if (!existsSync(join(dir, 'linked'))) symlinkSync('.', join(dir, 'linked'));
  const before = readFileSync(join(dir, 'requests.jsonl'));
  expect(terabag(args)).toMatchObject({
    status: 2,
    stdout: '',
    stderr: expect.stringMatching(new RegExp(`^error: ${names} have to be different files: \\S+\\n`)),
  });
  expect(readFileSync(join(dir, 'requests.jsonl'))).toEqual(before);
});

test('a device may take several results, and a plan keeps the profile that it was made of beside it', () => {
  expect(terabag(['predict', 'requests.jsonl', '--bundle', 'model', '-o', '/dev/null', '--trace', '/dev/null'])).toMatchObject({
    status: 0,
  });
  const plan = ['plan', 'model', '--shards', '2', '-o', 'again.json'];
  expect(terabag(plan)).toMatchObject({ status: 0 });
  expect(terabag([...plan, '--profile', 'again.profile.json'])).toMatchObject({ status: 0, stderr: '' });
});

test('the profile beside a plan, and the picture of a demo, are refused before the work when a directory is there', () => {
  mkdirSync(join(dir, 'beside.profile.json'));
  expect(terabag(['plan', 'none', '--shards', '2', '-o', 'beside.json'])).toMatchObject({
    status: 1,
    stderr: 'terabag: --output: file cannot be written (EISDIR): beside.profile.json (invalid_argument)\n',
  });
  mkdirSync(join(dir, 'drawn/report.html'), { recursive: true });
  expect(terabag(['demo', '--json', '--size', '1MiB', '-o', 'drawn'])).toMatchObject({
    status: 1,
    stderr: 'terabag: --output: file cannot be written (EISDIR): drawn/report.html (invalid_argument)\n',
  });
  expect(terabag(['demo', '--json', '--size', '1MiB', '-o', 'requests.jsonl'])).toMatchObject({
    status: 1,
    stderr: 'terabag: --output: has to be a directory (EEXIST): requests.jsonl (invalid_argument)\n',
  });
}, 30_000);

test('plan refuses changes that it does not know, costs that are none, and maps of another kind', () => {
  const args = ['plan', 'model', '--shards', '2', '-o', 'refused.json'];
  writeFileSync(join(dir, 'bad-costs.json'), '{"terabagCosts":2}');
  for (const [more, reason] of [
    [['--what-if', 'shard=3'], /no such key, there are .*: shard=3 \(invalid_argument\)/],
    [['--costs', 'bad-costs.json'], /costs.*machine.*\(invalid_argument\)/],
    [['--map', 'plan.png'], /\.html or \.svg: plan\.png \(invalid_argument\)/],
    [['--what-if', 'memory-limit=1B'], /does not fit/],
  ] as const) {
    const { status, stderr } = terabag([...args, ...more]);
    expect(status).toBe(1);
    expect(stderr).toMatch(reason);
    expect(existsSync(join(dir, 'refused.json'))).toBe(false);
  }
});

test('a plan is drawn with the names of its tables', () => {
  const args = ['plan', 'model', '--shards', '2', '--map', 'plan.html', '-o', 'drawn.json'];
  expect(terabag(args)).toMatchObject({ status: 0, stderr: '' });
  const page = readFileSync(join(dir, 'plan.html'), 'utf8');
  expect(page).toMatch(/<svg[\s\S]*shard-0[\s\S]*table_00[\s\S]*<svg/);
  expect(terabag([...args.slice(0, 5), 'plan.svg', ...args.slice(6)])).toMatchObject({ status: 0 });
  expect(readFileSync(join(dir, 'plan.svg'), 'utf8')).toMatch(/^<svg[\s\S]*table_00/);
});
