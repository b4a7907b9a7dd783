import { mkdtemp, rename, rm, unlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readEndpointFile } from '../../../src/endpoints/endpoint-file.js';
import { resolveEndpoints } from '../../../src/endpoints/resolve.js';
import { FakeClock } from '../rpc/fakes.js';

let dir: string;
let path: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-endpoint-file-'));
  path = join(dir, 'shard 0.txt');
});
afterAll(() => rm(dir, { recursive: true }));

test('a file lists an endpoint a line; comments and blank lines are left out', async () => {
  await writeFile(
    path,
    '# shard-0\n\ntcp://10.0.0.1:7400 # rack a\r\n\t ipc:///run/a#b\nsrv://_t._tcp.x#no comment\n'.replace('#no comment', ''),
  );
  expect(await readEndpointFile(path)).toEqual(['tcp://10.0.0.1:7400', 'ipc:///run/a#b', 'srv://_t._tcp.x']);
});

test.each([
  ['', /lists none: .*:1$/, 1],
  ['# nobody\n\n', /lists none: .*:3$/, 3],
  ['tcp://10.0.0.1:7400\ntcp://10.0.0.2:74', /half-written: .*:2$/, 2],
  ['tcp://10.0.0.1:7400\ntcp://10.0.0\n', /no tcp:\/\/host:port, .* \(tcp:\/\/10\.0\.0\): .*:2$/, 2],
  ['file:///other\n', /\(file:\/\/\/other\): .*:1$/, 1],
])('what may be half-written or is none is refused with its line: %j', async (text, message, line) => {
  await writeFile(path, text);
  await expect(readEndpointFile(path)).rejects.toMatchObject({
    code: 'invalid_argument',
    message: expect.stringMatching(message),
    details: { path, line },
  });
});

test('what is no plain file, is missing or too long is refused', async () => {
  await expect(readEndpointFile(dir)).rejects.toMatchObject({ message: `file of endpoints is no plain file: ${dir}` });
  await expect(readEndpointFile('/dev/zero')).rejects.toMatchObject({ message: 'file of endpoints is no plain file: /dev/zero' });
  await expect(readEndpointFile(join(dir, 'none'))).rejects.toMatchObject({ details: { reason: 'ENOENT', path: join(dir, 'none') } });
  await writeFile(path, 'tcp://10.0.0.1:7400\n'.repeat(60_000));
  await expect(readEndpointFile(path)).rejects.toMatchObject({ message: expect.stringMatching(/more than 1048576 bytes/) });
});

/** Until the disk has answered. */
async function changes(clock: FakeClock, isOver: () => boolean): Promise<void> {
  for (let time = 0; time < 1_000 && !isOver(); time++) {
    clock.pass(1);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  expect(isOver()).toBe(true);
}

test('a file is read every second: what replaced it is taken, and while it is missing or half-written the last good addresses stay', async () => {
  await writeFile(path, 'tcp://10.0.0.1:1\ntcp://10.0.0.2:1\n');
  const clock = new FakeClock();
  const reasons: unknown[] = [];
  const source = resolveEndpoints([pathToFileURL(path).href], {
    clock,
    random: () => 0.5,
    onProblem: ({ details }) => reasons.push(details['reason']),
  });
  await changes(clock, () => source.addresses.length === 2);
  await unlink(path);
  clock.pass(1_000);
  await changes(clock, () => reasons.length === 1);
  await writeFile(path, 'tcp://10.0.0.3:1\ntcp://10.0.');
  clock.pass(1_000);
  await changes(clock, () => reasons.length === 2);
  expect([reasons, source.addresses]).toEqual([
    ['ENOENT', 'invalid_argument'],
    ['tcp://10.0.0.1:1', 'tcp://10.0.0.2:1'],
  ]);
  expect(source.problem).not.toBeNull();
  await writeFile(`${path}.new`, 'tcp://10.0.0.3:1\n');
  await rename(`${path}.new`, path);
  clock.pass(1_000);
  await changes(clock, () => source.addresses.length === 1);
  expect([source.addresses, source.problem]).toEqual([['tcp://10.0.0.3:1'], null]);
  source.close();
});
