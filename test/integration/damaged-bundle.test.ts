import { cp, mkdtemp, open, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { inspectCommand } from '../../src/cli/inspect.js';
import { warmCommand } from '../../src/cli/warm.js';
import { connect, openLocal, packBundle, publish } from '../../src/index.js';
import { readModelSpec, verifyBundle } from '../../src/model/bundle.js';
import { modelHash } from '../../src/model/hash.js';
import { MAIN_SHARD, type Plan } from '../../src/plan/file/plan.js';
import { startShard } from '../../src/shard/shard.js';
import { type SmallModel, writeSmallModel } from '../reference/small-model.js';

let model: SmallModel;
let other: SmallModel;
let dir: string;
let plan: Plan;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-damaged-'));
  model = await writeSmallModel(31);
  // The shapes are the same: every file has the same length.
  other = await writeSmallModel(32);
  const spec = await readModelSpec(model.dir);
  plan = {
    terabagPlan: 1,
    strategy: 'by-hand',
    model: { name: spec.name, version: spec.version, hash: modelHash(spec) },
    shards: [{ name: 's', endpoints: ['tcp://127.0.0.1:7459'] }],
    tables: spec.tables.map(({ name }) => ({ table: name, parts: ['s'] })),
  };
});
afterAll(async () => {
  for (const path of [dir, model.dir, other.dir]) await rm(path, { recursive: true });
});

const DENSE = 'dense.safetensors';
const TABLE = 'tables/t2.safetensors';

async function change(path: string, edit: (bytes: Buffer, dataStart: number) => void): Promise<void> {
  const bytes = await readFile(path);
  edit(bytes, 8 + Number(bytes.readBigUInt64LE()));
  await writeFile(path, bytes);
}

/** Most leave a file that its reader takes, but for the checksums. */
const DAMAGES: Readonly<Record<string, (path: string, file: string) => Promise<void>>> = {
  'a flipped bit': (path) =>
    change(path, (bytes) => {
      bytes[bytes.length - 5]! ^= 1;
    }),
  'flipped signs': (path) =>
    change(path, (bytes, dataStart) => {
      for (let at = dataStart + 3; at < bytes.length; at += 4) bytes[at]! ^= 0x80;
    }),
  'a changed header': (path) => change(path, (bytes) => bytes.write('{ "', bytes.indexOf('{"'), 'latin1')),
  'another file of equal length': (path, file) => cp(join(other.dir, file), path),
  'its last bytes cut off': async (path) => truncate(path, (await readFile(path)).length - 4),
  'no content at all': (path) => truncate(path, 0),
};

const log = pino({ level: 'silent' });

/** What reads each file; an opener that does not read a file does not refuse it. */
const OPENERS: Readonly<Record<string, { reads: readonly string[]; open: (bundle: string, verify: 'full' | 'size') => Promise<unknown> }>> =
  {
    openLocal: { reads: [DENSE, TABLE], open: async (bundle, verify) => (await openLocal(bundle, { deadlineMs: 10_000, verify })).close() },
    'connect, main with no table': {
      reads: [DENSE],
      open: (bundle, verify) => connect(plan, { deadlineMs: 10_000, bundle, verify, readyMs: 200 }),
    },
    'connect, main with all tables': {
      reads: [DENSE, TABLE],
      open: async (bundle, verify) => {
        const own = { ...plan, shards: [], tables: plan.tables.map(({ table }) => ({ table, parts: [MAIN_SHARD] })) };
        return (await connect(own, { deadlineMs: 10_000, bundle, verify })).close();
      },
    },
    startShard: {
      reads: [TABLE],
      open: async (bundle, verify) => {
        const shard = await startShard({ plan, shard: 's', bundle, log, verify, endpoint: 'tcp://127.0.0.1:*' });
        await shard.drain(0);
      },
    },
    packBundle: {
      reads: [DENSE, TABLE],
      open: async (bundle, verify) => packBundle(bundle, await mkdtemp(join(dir, 'packed-')), { format: 'int8', verify }),
    },
    publish: {
      reads: [DENSE, TABLE],
      open: async (bundle, verify) => publish(plan, bundle, await mkdtemp(join(dir, 'published-')), { verify }),
    },
    verify: {
      reads: [DENSE, TABLE],
      open: async (bundle) => {
        const [problem] = await verifyBundle(bundle);
        if (problem !== undefined) throw Object.assign(new Error(problem), { code: 'checksum_mismatch' });
      },
    },
  };

/** bad_model: the dense weights lack a tensor that a layer names. */
const REFUSALS = ['checksum_mismatch', 'bad_table', 'bad_model'];

const cases = Object.keys(OPENERS).flatMap((opener) => [DENSE, TABLE].map((file): [string, string] => [opener, file]));

test.each(cases)('%s refuses a damaged %s, whatever of it is checked, and takes the sound one', async (name, file) => {
  const { reads, open: opening } = OPENERS[name]!;
  const refused = name === 'connect, main with no table' ? 'shard_unavailable' : null;
  const attempt = (bundle: string, verify: 'full' | 'size'): Promise<string | null> =>
    opening(bundle, verify).then(
      () => null,
      (error: { code: string }) => error.code,
    );
  expect(await attempt(model.dir, 'full')).toBe(refused);
  for (const [damage, spoil] of Object.entries(DAMAGES)) {
    const bundle = await mkdtemp(join(dir, 'bundle-'));
    await cp(model.dir, bundle, { recursive: true });
    await spoil(join(bundle, file), file);
    for (const verify of ['full', 'size'] as const) {
      const code = await attempt(bundle, verify);
      if (reads.includes(file)) expect(REFUSALS, `${damage}, ${verify}: ${code}`).toContain(code);
      else expect(code, `${damage}, ${verify}`).toBe(refused);
    }
  }
});

/** What lengths and headers tell. */
const SEEN_WITHOUT_CONTENT = ['a changed header', 'its last bytes cut off', 'no content at all'];

test.each([
  ['warm', warmCommand, ['--json']],
  ['inspect --residency', inspectCommand, ['--residency', '--json']],
] as const)('%s refuses a table by its length and its header, and reads no dense weights', async (_name, command, options) => {
  const print = vi.spyOn(console, 'log').mockReturnValue();
  for (const [damage, spoil] of Object.entries(DAMAGES)) {
    for (const file of [DENSE, TABLE]) {
      const bundle = await mkdtemp(join(dir, 'bundle-'));
      await cp(model.dir, bundle, { recursive: true });
      await spoil(join(bundle, file), file);
      const code = await command.parseAsync([bundle, ...options], { from: 'user' }).then(
        () => null,
        (error: { code: string }) => error.code,
      );
      expect(code, `${damage}, ${file}`).toBe(file === TABLE && SEEN_WITHOUT_CONTENT.includes(damage) ? 'bad_table' : null);
    }
  }
  print.mockRestore();
});

test('a file that is replaced while the bundle is opened is refused', async () => {
  const bundle = join(dir, 'replaced');
  await cp(model.dir, bundle, { recursive: true });
  const path = join(bundle, TABLE);
  let done = false;
  // The checks have begun: the header was read, and the rows are mapped.
  const onProgress = async (): Promise<void> => {
    if (done) return;
    done = true;
    const file = await open(path, 'r+');
    await file.utimes(new Date(0), new Date(0));
    await file.close();
  };
  await expect(openLocal(bundle, { onProgress: () => void onProgress() })).rejects.toThrow(/was changed while the bundle was opened/);
});

test.each(Object.entries(OPENERS).filter(([name]) => name !== 'verify'))(
  '%s refuses a verify that it does not know, and leaves nothing unchecked',
  async (_name, { open: opener }) => {
    for (const verify of ['Full', 'none', 'later', null, 1])
      await expect(opener(model.dir, verify as 'full')).rejects.toMatchObject({
        code: 'invalid_argument',
        message: expect.stringMatching(/^verify has to be one of full, size: /),
        details: { field: 'verify' },
      });
  },
);

test('a precision that is not known is told with those that are', async () => {
  await expect(openLocal(model.dir, { precision: 'fp64' as 'fp32' })).rejects.toMatchObject({
    code: 'invalid_argument',
    message: 'precision has to be one of fp32, bf16, int8: fp64',
    details: { field: 'precision' },
  });
});
