import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { demoShape } from '../../src/lab/generate/model-shape.js';
import { writeSyntheticBundle } from '../../src/lab/generate/synthetic-bundle.js';
import { type Characterisation, characterisationSchema } from '../../src/lab/report/characterisation.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const SMALL = ['--quick', '--rounds', '1', '--items', '4'];

let dir: string;
beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'terabag-characterise-'));
  await writeSyntheticBundle(join(dir, 'model'), demoShape(2 ** 20));
});
afterAll(() => rmSync(dir, { recursive: true }));

const command = (output: string, ...args: string[]): string[] => [main, 'characterise', 'model', '-o', output, ...args];

function characterise(output: string, ...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, command(output, ...args), { cwd: dir, encoding: 'utf8', maxBuffer: 2 ** 28 });
}

/** Parsed with the schema: throws when it is not valid. */
const resultsIn = (output: string): Characterisation =>
  characterisationSchema.parse(JSON.parse(readFileSync(join(dir, output, 'results.json'), 'utf8')));

/** Starts it, and sends a signal when stderr has the text. */
async function interrupt(
  output: string,
  args: string[],
  text: string,
  signal: NodeJS.Signals,
): Promise<{ code: number | null; stderr: string }> {
  const child: ChildProcess = spawn(process.execPath, command(output, ...args), { cwd: dir, stdio: ['ignore', 'ignore', 'pipe'] });
  let stderr = '';
  child.stderr?.on('data', (data: Buffer) => {
    const before = stderr.includes(text);
    stderr += data.toString();
    if (!before && stderr.includes(text)) child.kill(signal);
  });
  const [code] = (await once(child, 'exit')) as [number | null];
  return { code, stderr };
}

test('strategies, batches and a trace of a small model, each request answered by real shards', () => {
  const { status, stdout, stderr } = characterise('whole', ...SMALL, '--only', 'strategies,batches,schedule,trace', '--json');
  expect([status, stderr]).toEqual([0, expect.stringContaining('in all about')]);
  const results = resultsIn('whole');
  expect(JSON.parse(stdout)).toEqual(JSON.parse(readFileSync(join(dir, 'whole', 'results.json'), 'utf8')));
  expect(results.endedAt).not.toBeNull();
  expect(results.resume?.finished).toEqual(['strategies', 'batches', 'schedule', 'trace']);

  const byId = new Map(results.configurations.map((configuration) => [configuration.id, configuration]));
  for (const id of ['singular', 'one-shard', 'capacity-balanced-2', 'load-balanced-4', 'nsbp-4']) {
    const runs = byId.get(id)?.runs ?? [];
    expect(runs.map(({ kind }) => kind)).toEqual(['serial', 'open-loop']);
    for (const { requests, failures, latencyMs, cpuMsPerRequest, stacks } of runs) {
      expect([failures, latencyMs.count]).toEqual([{}, requests]);
      expect(requests).toBeGreaterThan(0);
      expect(cpuMsPerRequest?.total).toBeGreaterThan(0);
      expect(stacks.map(({ quantile }) => quantile)).toEqual([0.5, 0.99]);
    }
    // Layers of the traced requests add up to a latency that was measured from outside.
    const [{ stacks, latencyMs }] = runs as [(typeof runs)[number]];
    const tallest = stacks[1]?.latency.reduce((sum, { ms }) => sum + ms, 0) ?? 0;
    expect(tallest).toBeGreaterThan(0);
    expect(tallest).toBeLessThanOrEqual((latencyMs.max ?? 0) * 1.01);
  }
  // One RPC per request and shard; in the paper's way, one per batch, net and shard.
  expect(byId.get('load-balanced-4')?.runs[0]?.rpcsPerRequest).toBe(4);
  const over = results.overheads.find(({ configuration, kind }) => configuration === 'load-balanced-4' && kind === 'serial');
  expect(over).toMatchObject({ baseline: 'singular', pairs: 1, qps: null });
  expect(results.batchSweeps.map(({ points }) => points.length)).toEqual([2, 2]);
  expect(results.batchSchedules.map(({ configuration }) => configuration)[0]).toBe('singular');
  expect(results.batchSchedules).toHaveLength(2);
  for (const { best, measured } of results.batchSchedules) {
    expect(measured.map(({ items }) => items)).toContain(4);
    expect(Math.max(...measured.map(({ qps }) => qps))).toBe(best.qps);
  }
  expect(results.waterfall?.spans.map(({ lane }) => lane)).toContain('main');
  expect(JSON.parse(readFileSync(join(dir, 'whole', 'trace.json'), 'utf8')).traceEvents.length).toBeGreaterThan(50);
  expect(readFileSync(join(dir, 'whole', 'report.html'), 'utf8')).toContain('P99');
  const verdicts = new Map(results.findings.map(({ id, held }) => [id, held]));
  // One round tells no difference.
  expect([verdicts.get('p99-within-1-percent'), verdicts.get('slower-sparse-hosts-are-free')]).toEqual([null, null]);
});

test('a killed run leaves valid results, and the same command goes on without running a group twice', async () => {
  const args = [...SMALL, '--only', 'formats,rates,trace', '--p99', '50ms'];
  await interrupt('resumed', args, 'formats took', 'SIGKILL');
  const killed = resultsIn('resumed');
  expect([killed.resume?.finished, killed.endedAt]).toEqual([['formats'], null]);
  const formats = killed.configurations.filter(({ rowFormat }) => rowFormat === 'int8');
  expect(formats.map(({ id }) => id)).toEqual(['singular-int8', 'load-balanced-2-int8']);

  const second = await interrupt('resumed', args, 'rates took', 'SIGINT');
  expect(second).toEqual({
    code: 130,
    stderr: expect.stringMatching(/measured already: formats\n.*interrupted; the same command goes on/s),
  });
  expect(second.stderr).not.toContain('formats took');
  const interrupted = resultsIn('resumed');
  expect([interrupted.resume?.finished, interrupted.endedAt]).toEqual([['formats', 'rates'], null]);

  const third = characterise('resumed', ...args);
  expect([third.status, third.stderr]).toEqual([0, expect.stringMatching(/measured already: formats, rates\n/)]);
  const whole = resultsIn('resumed');
  expect([whole.resume?.finished, whole.endedAt]).toEqual([['formats', 'rates', 'trace'], expect.any(String)]);
  expect(whole.configurations).toEqual(expect.arrayContaining(formats));
  expect(whole.knees.map(({ p99BoundMs, configuration }) => [configuration, p99BoundMs])).toEqual([
    ['singular', 50],
    ['load-balanced-2', 50],
  ]);
  expect(whole.startedAt).toBe(killed.startedAt);

  const other = characterise('resumed', ...args, '--seed', '2');
  expect(other).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/with another seed: .* has 1, now it is 2;.*\(invalid_argument\)\n$/),
  });
  expect(resultsIn('resumed')).toEqual(whole);
});

test('options that make no sense end before anything is written', () => {
  for (const args of [
    ['--only', 'nothing'],
    ['--rounds', '0'],
    ['--p99', '20'],
    ['--qps', '-1'],
    ['--residency', 'some'],
  ])
    expect(characterise('none', ...args)).toMatchObject({ status: 2, stderr: expect.stringMatching(/error: .*(--|no such group)/) });
  expect(characterise('none', '--items', 'many')).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/items have to be N, lognormal/),
  });
  writeFileSync(join(dir, 'file'), '');
  expect(characterise('file')).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/output has to be a directory \(EEXIST\).*invalid_argument/),
  });
  expect(characterise('none', '--requests', 'none.jsonl')).toMatchObject({ status: 1 });
  expect(existsSync(join(dir, 'none', 'results.json'))).toBe(false);
});
