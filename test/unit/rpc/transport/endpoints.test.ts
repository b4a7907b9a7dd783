import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { lstat, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { systemReason, whyUnreachable } from '../../../../src/rpc/transport/reasons.js';
import { listenOn } from '../../../../src/rpc/transport/sockets.js';
import type { ServerTransport } from '../../../../src/rpc/transport/transport.js';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-endpoints-'));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

const listen = (endpoint: string): Promise<ServerTransport> => listenOn(endpoint, (_, message) => message.release());
const sockets = new URL('../../../../dist/rpc/transport/sockets.js', import.meta.url).href;

interface Script {
  readonly process: ChildProcessWithoutNullStreams;
  readonly ended: Promise<{ code: number | null; signal: string | null }>;
  output(): string;
  printed(what: RegExp): Promise<void>;
}

/** Starts a script beside the compiled sockets in a process of its own. */
function startScript(script: string, env: NodeJS.ProcessEnv, ...wrap: string[]): Script {
  const [command = process.execPath, ...words] = [...wrap, process.execPath];
  const source = `import { connectTo, listenOn } from ${JSON.stringify(sockets)};\n${script}`;
  const child = spawn(command, [...words, '--input-type=module', '-e', source], { env: { ...process.env, ...env } });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => (output += text));
  return {
    process: child,
    ended: once(child, 'close').then(([code, signal]) => ({ code, signal })),
    output: () => output,
    printed: (what) => vi.waitFor(() => expect(output).toMatch(what), { timeout: 10_000 }),
  };
}

/** Runs one; its output. */
async function run(script: string, ...wrap: string[]): Promise<{ code: number | null; signal: string | null; output: string }> {
  const child = startScript(script, {}, ...wrap);
  return { ...(await child.ended), output: child.output() };
}

test('a second server of a live ipc endpoint is refused, and the first goes on; a stale file is taken over', async () => {
  const endpoint = `ipc://${join(dir, 'live')}`;
  const first = await listen(endpoint);
  await expect(listen(endpoint)).rejects.toMatchObject({ code: 'invalid_argument', details: { endpoint, reason: 'EADDRINUSE' } });
  expect(await whyUnreachable(endpoint)).toBe(null);
  await first.close();
  const stale = `ipc://${join(dir, 'stale')}`;
  await run(`await listenOn(${JSON.stringify(stale)}, () => undefined); process.kill(process.pid, 'SIGKILL');`);
  expect(existsSync(join(dir, 'stale'))).toBe(true);
  await (await listen(stale)).close();
});

test.each([
  ['a file', (path: string) => writeFile(path, 'data')],
  ['an empty file', (path: string) => writeFile(path, '')],
  ['a directory', (path: string) => mkdir(path)],
  ['a link to a file', (path: string) => writeFile(`${path}.data`, 'data').then(() => symlink(`${path}.data`, path))],
  ['a link to nothing', (path: string) => symlink(`${path}.nothing`, path)],
  ['a pipe', async (path: string) => void (await once(spawn('mkfifo', [path]), 'close'))],
])('what lies at the path and is no socket stays as it is, and the endpoint is refused: %s', async (what, put) => {
  const path = join(dir, what.replaceAll(' ', '-'));
  await put(path);
  const before = await lstat(path);
  const endpoint = `ipc://${path}`;
  await expect(listen(endpoint)).rejects.toMatchObject({ code: 'invalid_argument', details: { endpoint, reason: 'EEXIST' } });
  expect((await lstat(path)).ino).toBe(before.ino);
  if (what === 'a file') expect(await readFile(path, 'utf8')).toBe('data');
});

test('a socket of a server whose queue of connections is full is not taken over', async () => {
  const path = join(dir, 'busy');
  const child = spawn(process.execPath, [
    '-e',
    `require('node:net').createServer().listen({ path: ${JSON.stringify(path)}, backlog: 1 }, () => { console.log('up'); })`,
  ]);
  await once(child.stdout, 'data');
  child.kill('SIGSTOP');
  const waiting = Array.from({ length: 8 }, () => connect(path).on('error', () => undefined));
  await expect(listen(`ipc://${path}`)).rejects.toMatchObject({
    code: 'invalid_argument',
    details: { reason: expect.stringMatching(/^(EAGAIN|EADDRINUSE|ETIMEDOUT)$/) },
  });
  for (const socket of waiting) socket.destroy();
  child.kill('SIGKILL');
  await once(child, 'close');
});

test.each([
  ['a port that is taken', async () => (await listen('tcp://127.0.0.1:*')).endpoint, 'EADDRINUSE'],
  ['a path that is too long', async () => `ipc:///${'long/'.repeat(60)}`, 'ENAMETOOLONG'],
  ['a directory that is not there', async () => `ipc://${join(dir, 'nowhere', 'socket')}`, 'ENOENT'],
  ['an interface that no host has', async () => 'tcp://no-such-interface-here:5555', 'ENODEV'],
  ['a host that has no address', async () => 'tcp://no-such-host.invalid:5555', 'ENOTFOUND'],
  ['an address that is none', async () => 'tcp://300.0.0.1:5555', 'ENOTFOUND'],
])('the reason why nobody can listen there is in message and details: %s', async (_, endpointOf, reason) => {
  const endpoint = await endpointOf();
  const error = await listen(endpoint).catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code: 'invalid_argument', details: { endpoint, reason } });
  expect((error as Error).message).toContain(reason);
});

test.each([
  ['tcp://127.0.0.1:1', 'ECONNREFUSED'],
  ['tcp://no-such-host.invalid:5555', /^E(NOTFOUND|AI_AGAIN)$/],
  ['ipc:///no/such/socket', 'ENOENT'],
  ['tcp://127.0.0.1:0', /^E/],
  ['ipc:///a\0b', /^E/],
])('why nobody answers at %s is said', async (endpoint, reason) => {
  expect(await whyUnreachable(endpoint)).toEqual(typeof reason === 'string' ? reason : expect.stringMatching(reason));
});

test("a reason is the system's name, or none: libzmq has numbers of its own, and endpoints that are none end nothing", async () => {
  expect(systemReason({ errno: 98 })).toBe('EADDRINUSE');
  for (const errno of [156_384_764, -156_384_763, 0, 1.5, '98', undefined]) expect(systemReason({ errno })).toBe(null);
  for (const endpoint of ['tcp://127.0.0.1:74000', 'tcp://127.0.0.1', 'udp://127.0.0.1:5000', ''])
    expect(await whyUnreachable(endpoint)).toBe(null);
  await expect(listen('udp://127.0.0.1:5000')).rejects.toMatchObject({
    code: 'invalid_argument',
    message: expect.not.stringContaining('Unknown'),
  });
});

describe.skipIf(process.platform !== 'linux')('with few file descriptors (Linux tells how many are free)', () => {
  test.each([0, 10, 20, 23, 28])('connecting and listening are refused with the reason, and the process goes on: %i free', async (free) => {
    const script = `
      import { openSync, readdirSync, readFileSync, closeSync } from 'node:fs';
      const limit = Number(/^Max open files\\s+(\\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))[1]);
      const taken = [];
      const leave = limit - readdirSync('/proc/self/fd').length - ${free};
      for (let n = 0; n < leave; n++) taken.push(openSync('/dev/null'));
      const handlers = { up() {}, down() {}, unreachable() {}, message() {} };
      const told = [];
      try { connectTo('tcp://127.0.0.1:1', handlers); } catch (error) { told.push(error); }
      await listenOn('tcp://127.0.0.1:*', () => undefined).catch((error) => told.push(error));
      for (const file of taken) closeSync(file);
      for (const { code, details } of told) console.log(code, details.reason);
      const server = await listenOn('tcp://127.0.0.1:*', () => undefined);
      await server.close();
      console.log('goes on');
      process.exit(0);`;
    const { code, output } = await run(script, 'sh', '-c', 'ulimit -n 256 && exec "$@"', 'sh');
    expect(output.trim().split('\n')).toEqual(['overloaded EMFILE', 'overloaded EMFILE', 'goes on']);
    expect(code).toBe(0);
  });

  // A server listens in a process of 256 descriptors; connections come, and stay, until it takes no more.
  test.each(['native', 'zeromq.js'])(
    'a server of an ipc endpoint takes no more connections, goes on, and takes some again later: %s',
    async (kind) => {
      const path = join(dir, `crowded-${kind}`);
      const script = `
      const server = await listenOn(${JSON.stringify(`ipc://${path}`)}, () => undefined, { onWarning: (message) => console.log(message) });
      console.log('listens');
      process.stdin.once('data', () => server.close().then(() => process.exit(0)));`;
      const child = startScript(script, { TERABAG_SOCKETS: kind }, 'sh', '-c', 'ulimit -n 256 && exec "$@"', 'sh');
      await child.printed(/listens/);
      const taken: Socket[] = [];
      /** null: more connections wait to be accepted than may. */
      const attempt = async (): Promise<boolean | null> => {
        const socket = connect(path);
        try {
          await once(socket, 'connect');
        } catch (error) {
          return (error as NodeJS.ErrnoException).code === 'EAGAIN' ? null : false;
        }
        taken.push(socket.on('error', () => undefined));
        return true;
      };
      while ((await attempt()) !== false) expect(taken.length).toBeLessThan(256);
      expect(taken.length).toBeGreaterThan(50);
      await child.printed(/no further connection is accepted.*ulimit -n/);
      expect(taken.filter((socket) => !socket.destroyed).length).toBeGreaterThan(50);
      for (const socket of taken.splice(0, 60)) socket.destroy();
      await vi.waitFor(async () => expect(await attempt()).toBe(true), { timeout: 10_000, interval: 100 });
      for (const socket of taken) socket.destroy();
      child.process.stdin.write('end\n');
      expect(await child.ended).toEqual({ code: 0, signal: null });
    },
  );
});
