import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { PORTS, USER } from '../../src/cluster/deploy/pod.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const docker = join(root, 'deploy/docker');
const { files, bin } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { files: string[]; bin: Record<string, string> };
const built = process.env['TERABAG_ADDON'] ?? join(root, 'native/build/Release/terabag.node');

interface Instruction {
  readonly word: string;
  readonly rest: string;
}

/** Those of each stage, without comments, lines that go on joined. */
function stagesOf(text: string): Instruction[][] {
  const lines = text
    .replace(/^#.*\n/gm, '')
    .replace(/\\\n/g, ' ')
    .split('\n')
    .filter((line) => line.trim() !== '');
  const stages: Instruction[][] = [[]];
  for (const line of lines) {
    const [, word = '', rest = ''] = /^([A-Z]+)\s+(.*)$/.exec(line) ?? expect.fail(`no instruction: ${line}`);
    if (word === 'FROM') stages.push([]);
    stages.at(-1)?.push({ word, rest });
  }
  return stages;
}

const [, packaging = [], runtime = [], ...more] = stagesOf(readFileSync(join(docker, 'Dockerfile'), 'utf8'));
const all = (stage: readonly Instruction[], word: string): string[] => stage.filter((one) => one.word === word).map(({ rest }) => rest);
/** What a COPY takes, and where it goes. */
const copied = (rest: string): { readonly sources: string[]; readonly target: string } => {
  const words = rest.split(/\s+/);
  return { sources: words.slice(0, -1), target: words.at(-1) ?? '' };
};

const dir = mkdtempSync(join(tmpdir(), 'terabag-image-'));
afterAll(() => rmSync(dir, { recursive: true }));

test('the image runs the command, as no root, on the ports of manifests, and builds nothing where it runs', () => {
  expect(more).toEqual([]);
  expect(all(runtime, 'RUN')).toEqual([]);
  expect(all(runtime, 'COPY')).toEqual(['--from=package /app /app']);
  expect(all(packaging, 'FROM')).toEqual([expect.stringMatching(/^--platform=\$BUILDPLATFORM .* AS package$/)]);
  expect(all(runtime, 'USER')).toEqual([`${USER}:${USER}`]);
  expect(JSON.parse(all(runtime, 'ENTRYPOINT')[0] ?? '')).toEqual(['node', join('/app', bin['terabag'] ?? '')]);
  expect(new Set(all(runtime, 'EXPOSE')[0]?.split(' ').map(Number))).toEqual(new Set(Object.values(PORTS)));
  // Signals reach the process itself: no shell is before it.
  expect(JSON.parse(all(runtime, 'CMD')[0] ?? '')).toEqual(['--help']);
});

test('all that is copied is in the checkout or in the package, and let into the context', () => {
  const allowed = readFileSync(join(docker, 'Dockerfile.dockerignore'), 'utf8').trim().split('\n');
  expect(allowed[0]).toBe('*');
  const sources = all(packaging, 'COPY').flatMap((rest) => copied(rest).sources);
  for (const source of sources) expect(existsSync(join(root, source)) || files.includes(source), source).toBe(true);
  expect(new Set(allowed.slice(1))).toEqual(new Set(sources.map((source) => `!${source}`)));
});

test.skipIf(process.platform !== 'linux')(
  'the stage that packs leaves a program that runs, with one addon',
  { timeout: 240_000 },
  async () => {
    const app = join(dir, 'app');
    mkdirSync(app);
    const env = {
      ...process.env,
      TARGETARCH: process.arch === 'x64' ? 'amd64' : process.arch,
      PEERS: '',
      npm_config_prefer_offline: 'true',
    };
    for (const { word, rest } of packaging) {
      if (word === 'RUN') execFileSync('sh', ['-ec', rest], { cwd: app, env, stdio: ['ignore', 'ignore', 'pipe'] });
      if (word !== 'COPY') continue;
      const { sources, target } = copied(rest);
      for (const source of sources) {
        const to = target === './' ? join(app, basename(source)) : join(app, target);
        if (source !== 'prebuilds') cpSync(join(root, source), to, { recursive: true });
        else {
          // As npm run build:prebuilt leaves it, with the addon that is here for each platform.
          mkdirSync(to);
          for (const platform of ['linux-x64', 'linux-arm64', 'linux-x64-musl']) copyFileSync(built, join(to, `${platform}.node`));
        }
      }
    }
    expect(readdirSync(join(app, 'prebuilds'))).toEqual([`linux-${process.arch}.node`]);
    expect(existsSync(join(app, 'node_modules/typescript'))).toBe(false);
    const { TERABAG_ADDON: _, ...bare } = process.env;
    const main = join(app, bin['terabag'] ?? '');
    const terabag = (...args: string[]): string => {
      const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], { cwd: dir, env: bare, encoding: 'utf8' });
      expect(status, stderr).toBe(0);
      return stdout;
    };
    expect(terabag('--help')).toMatch(/^Usage: terabag /);
    const bundle = join(root, 'test/fixtures/open-bandit');
    terabag('plan', bundle, '--shards', '1', '-o', 'plan.json');
    expect(terabag('deploy', 'kubernetes', 'plan.json', '-o', 'manifests')).toContain('manifests/shard-0.yaml');
    // With the addon, and zeromq's.
    terabag('requests', bundle, '-n', '20', '--items', '4', '-o', 'requests.jsonl');
    const up = spawn(process.execPath, [main, 'up', 'plan.json', '--bundle', bundle, '--free-ports', 'live.json'], { cwd: dir, env: bare });
    const ended = once(up, 'exit');
    try {
      for await (const line of createInterface({ input: up.stdout })) if (line.startsWith('all: up')) break;
      const scores = terabag('predict', 'requests.jsonl', '--bundle', bundle, '--plan', 'live.json');
      expect(scores.trim().split('\n')).toHaveLength(20);
    } finally {
      up.kill('SIGTERM');
      await ended;
    }
    expect(readdirSync(join(app, 'node_modules/zeromq/build'), { recursive: true })).toContain(`linux/${process.arch}`);
    expect(existsSync(join(app, 'node_modules/zeromq/build/linux', process.arch === 'x64' ? 'arm64' : 'x64'))).toBe(false);
  },
);
