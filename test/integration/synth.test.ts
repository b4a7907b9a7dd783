import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statfsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { shapeBytes } from '../../src/lab/generate/model-shape.js';
import { shapeByName } from '../../src/lab/generate/shape-by-name.js';
import type { PredictRequest } from '../../src/predictor/predictor.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'terabag-synth-'));
afterAll(() => rmSync(dir, { recursive: true }));

function terabag(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [main, ...args], { cwd: dir, encoding: 'utf8' });
}

test('synth makes a bundle that verifies; requests for it, and for its shape, are scored from both kinds of file', () => {
  const made = terabag('synth', 'rmc1', '--scale', '0.01%', '-o', 'rmc1', '--format', 'fp16', '--seed', '9', '--json');
  expect(JSON.parse(made.stdout)).toMatchObject({ shape: 'rmc1', scale: 0.0001, tables: 8, nets: 1, seed: 9, bytes: 8 * 400 * 64 });
  expect(terabag('verify', 'rmc1')).toMatchObject({ status: 0 });
  for (const [source, file] of [
    [['rmc1', '--scale', '0.0001'], 'shape.safetensors'],
    [['./rmc1'], 'bundle.jsonl'],
  ] as const) {
    const requests = terabag('requests', ...source, '-n', '5', '--items', 'lognormal:6,0.5', '-o', file, '--json');
    expect(JSON.parse(requests.stdout)).toMatchObject({ requests: 5, bags: 8 });
    const { status, stdout } = terabag('predict', file, '--bundle', 'rmc1');
    expect(status).toBe(0);
    const scores = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line).scores.length);
    expect(scores.reduce((sum, count) => sum + count, 0)).toBe(JSON.parse(requests.stdout).items);
  }
});

test('synth refuses a directory that holds something, and a model for which the disk has no room; nothing is left', () => {
  const used = terabag('synth', 'rmc1', '--scale', '0.0001', '-o', '.');
  expect(used).toMatchObject({ status: 1, stderr: expect.stringMatching(/output has to be empty or not there/) });
  const { bavail, bsize } = statfsSync(dir);
  if (bavail * bsize > shapeBytes(shapeByName('drm3', 1))) return;
  const before = readdirSync(dir);
  expect(terabag('synth', 'drm3', '-o', 'deep/drm3')).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(
      new RegExp(
        `not enough room on the disk: deep/drm3 has \\d+ bytes, needed are ${shapeBytes(shapeByName('drm3', 1))} \\(does_not_fit\\)`,
      ),
    ),
  });
  expect(readdirSync(dir)).toEqual(before);
});

test.each(['jsonl', 'safetensors'])('requests that are interrupted leave nothing: %s', async (kind) => {
  const output = `interrupted.${kind}`;
  // More than can be made before the signal.
  const args = ['requests', 'rmc2', '--scale', '0.0001', '-n', '1000000', '--items', 'file:sizes', '-o', output];
  // The command opens the pipe when it is ready for signals, and waits for what is written.
  const sizes = join(dir, 'sizes');
  expect(spawnSync('mkfifo', [sizes]).status).toBe(0);
  const child = spawn(process.execPath, [main, ...args], { cwd: dir, stdio: ['ignore', 'ignore', 'pipe'] });
  let stderr = '';
  child.stderr?.on('data', (text) => {
    stderr += text;
  });
  await writeFile(sizes, '1\n');
  rmSync(sizes);
  await new Promise((resolve) => setTimeout(resolve, 300));
  child.kill('SIGINT');
  const [code] = await once(child, 'exit');
  expect([code, stderr]).toEqual([1, expect.stringContaining('(aborted)')]);
  expect(readdirSync(dir).filter((name) => name.startsWith('interrupted'))).toEqual([]);
});

test('wrong usage of synth and requests exits with 2', () => {
  for (const args of [
    ['synth', 'drm4', '-o', 'x'],
    ['synth', 'drm1', '-o', 'x', '--scale', '2'],
    ['synth', 'drm1'],
    ['requests', 'drm1'],
    ['requests', './model', '--scale', '0.1', '-o', 'x'],
  ])
    expect(terabag(...args).status, args.join(' ')).toBe(2);
  expect(terabag('requests', 'drm1', '--items', 'many', '-o', 'x.jsonl')).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/items have to be/),
  });
  expect(existsSync(join(dir, 'x'))).toBe(false);
});

test('requests of a name that is a shape and a bundle have to say which', () => {
  expect(terabag('synth', 'ncf', '--scale', '0.001', '-o', 'ncf').status).toBe(0);
  expect(terabag('requests', 'ncf', '-n', '2', '-o', 'ncf.jsonl')).toMatchObject({
    status: 2,
    stderr: expect.stringContaining('./ncf for the bundle, --scale 1 for the shape'),
  });
  const mostOf = (model: string, ...more: string[]): number => {
    expect(terabag('requests', model, ...more, '-n', '20', '-o', 'ncf.jsonl').status).toBe(0);
    const lines = readFileSync(join(dir, 'ncf.jsonl'), 'utf8').trimEnd().split('\n');
    return Math.max(
      ...lines.flatMap((line) =>
        Object.values((JSON.parse(line) as PredictRequest).sparse).flatMap(({ indices }) => Array.from(indices, Number)),
      ),
    );
  };
  expect(mostOf('./ncf')).toBeLessThan(1000);
  expect(mostOf('ncf', '--scale', '1')).toBeGreaterThan(1000);
});
