import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { makePlan, modelHash, profileFromSpec, readModelSpec, writePlan } from '../../src/index.js';
import { writeRequests } from '../../src/lab/index.js';
import { fullCharacterisation } from '../reference/characterisation.js';
import { random, smallRequest, writeSmallModel } from '../reference/small-model.js';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
let dir: string;
let bundle: string;
let out: string;
const at = (name: string): string => join(dir, name);

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'terabag-full-'));
  ({ dir: bundle } = await writeSmallModel(61));
  const spec = await readModelSpec(bundle);
  const hash = modelHash(spec);
  await writePlan(at('plan.json'), makePlan('capacity-balanced', spec, hash, profileFromSpec(spec), { shards: 2 }));
  const next = random(61);
  await writeRequests(
    at('requests.jsonl'),
    Array.from({ length: 20 }, () => smallRequest(next, 3)),
  );
  writeFileSync(at('results.json'), JSON.stringify(fullCharacterisation()));
});
beforeEach(() => {
  out = mkdtempSync(join(dir, 'out-'));
});
afterAll(() => {
  for (const path of [dir, bundle]) rmSync(path, { recursive: true });
});

function run(command: string, redirect = ''): { status: number | null; lines: string[] } {
  const words = command.replaceAll('BUNDLE', bundle).replaceAll('OUT', out).replaceAll('DIR', dir);
  const { status, stderr } = spawnSync(
    'bash',
    ['-c', `ulimit -f ${redirect === '' ? 1 : 'unlimited'}; '${process.execPath}' '${main}' ${words} ${redirect}`],
    {
      encoding: 'utf8',
      // Of what is written for the time of a measurement.
      env: { ...process.env, TMPDIR: out },
    },
  );
  return { status, lines: stderr.trim().split('\n') };
}

/** A limit of 1 KiB on files stands for a disk that fills up while they are written: the system says EFBIG for ENOSPC. */
test.each([
  ['pack BUNDLE -o OUT/packed --format bf16', /OUT\/packed\/tables\/t0\.safetensors/],
  ['publish DIR/plan.json OUT/published --bundle BUNDLE', /OUT\/published/],
  ['synth rmc1 --scale 0.0001 -o OUT/synth', /OUT\/synth\/tables\//],
  ['requests BUNDLE -n 50 -o OUT/requests.jsonl', /OUT\/requests\.jsonl/],
  ['requests BUNDLE -n 50 -o OUT/requests.safetensors', /OUT\/requests\.safetensors/],
  ['plan BUNDLE --shards 9 -o OUT/plan.json', /OUT\/plan\.(profile\.)?json/],
  ['predict DIR/requests.jsonl --bundle BUNDLE -o OUT/scores.jsonl', /OUT\/scores\.jsonl/],
  ['predict DIR/requests.jsonl --bundle BUNDLE -o /dev/null --trace OUT/trace.json', /OUT\/trace\.json/],
  ['report DIR/results.json -o OUT/report.html', /OUT\/report\.html/],
  ['calibrate --quick -o OUT/costs.json', /OUT\/terabag-.*TMPDIR|TMPDIR.*OUT\/terabag-/],
])('%s on a full disk is one line with the path, and leaves nothing', (command, path) => {
  const { status, lines } = run(command);
  expect(lines).toHaveLength(1);
  expect(lines[0]).toMatch(/^terabag: no room left .*\(EFBIG\).*\(does_not_fit\)$/);
  expect(lines[0]!.replaceAll(out, 'OUT')).toMatch(path);
  expect(status).toBe(1);
  // What was published stays, for the same command to go on with.
  if (!command.startsWith('publish')) expect(readdirSync(out)).toEqual([]);
  else expect(run(command, '> /dev/null')).toEqual({ status: 0, lines: [''] });
});

test.each([
  'plan BUNDLE --shards 2 -o /dev/full',
  'profile BUNDLE DIR/requests.jsonl -o /dev/full',
  'report DIR/results.json -o /dev/full',
  'predict DIR/requests.jsonl --bundle BUNDLE -o /dev/full',
])('%s says so', (command) => {
  const { status, lines } = run(command, '> /dev/null');
  expect(lines).toEqual([expect.stringMatching(/^terabag: no room left .*\(ENOSPC\): \/dev\/full,/)]);
  expect(status).toBe(1);
});

test.each(['--help', '--version', 'predict --help', 'inspect BUNDLE', 'inspect BUNDLE --residency --json', 'verify BUNDLE', 'warm BUNDLE'])(
  '%s that cannot be printed fails',
  (command) => {
    const { status, lines } = run(command, '> /dev/full');
    expect(lines).toEqual([expect.stringMatching(/^terabag: no room left .*\(ENOSPC\): stdout,/)]);
    expect(status).toBe(1);
  },
);
