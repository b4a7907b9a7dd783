import { mkdtemp, rm } from 'node:fs/promises';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { systemClock } from '../../../src/clock.js';
import { openServiceManager } from '../../../src/cluster/service-manager.js';
import { native } from '../../../src/engine/native.js';
import { canReceive, NotifyReceiver } from '../../reference/notify-receiver.js';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'terabag-notify-'));
});
afterAll(() => rm(dir, { recursive: true }));

const cancels: (() => void)[] = [];
/** Whose timers end with the test. */
const clock = {
  ...systemClock,
  every: (ms: number, call: () => void) => {
    const cancel = systemClock.every(ms, call);
    cancels.push(cancel);
    return cancel;
  },
};
let receiver: NotifyReceiver | null = null;
afterEach(async () => {
  for (const cancel of cancels.splice(0)) cancel();
  await receiver?.close();
  receiver = null;
});

const heard = (count: number): Promise<void> =>
  vi.waitFor(() => expect(receiver?.notices.length).toBeGreaterThanOrEqual(count), { timeout: 20_000, interval: 10 });

test.skipIf(!canReceive).each([
  ['a socket in the file system', () => join(dir, 'notify')],
  ['an abstract socket', () => `@terabag-notify-${process.pid}`],
])('%s hears of readiness and the end, with one line each of status', async (_, address) => {
  receiver = await NotifyReceiver.listen(address());
  const manager = await openServiceManager({ env: { NOTIFY_SOCKET: address() }, clock });
  manager.status('reading\ntables');
  manager.ready('serving shard-0');
  manager.stopping();
  await heard(3);
  expect(receiver.texts).toEqual(['STATUS=reading tables', 'READY=1\nSTATUS=serving shard-0', 'STOPPING=1\nSTATUS=draining']);
});

test.skipIf(!canReceive)(
  'signs of life are sent twice a period, once it serves, and stay away while the event loop stands still',
  async () => {
    const address = join(dir, 'signs');
    receiver = await NotifyReceiver.listen(address);
    const env = { NOTIFY_SOCKET: address, WATCHDOG_USEC: '200000', WATCHDOG_PID: String(process.pid) };
    const manager = await openServiceManager({ env, clock });
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(receiver.notices).toEqual([]);
    manager.ready('serving');
    await heard(4);
    expect(receiver.texts.slice(1)).toEqual(receiver.texts.slice(1).map(() => 'WATCHDOG=1'));
    for (const { seconds } of receiver.notices.slice(2)) expect(seconds).toBeGreaterThan(0.05);
    const before = receiver.notices.length;
    const blocked = performance.now() + 1_000;
    while (performance.now() < blocked);
    await heard(before + 4);
    const longest = Math.max(...receiver.notices.slice(before).map(({ seconds }) => seconds));
    expect(longest).toBeGreaterThan(0.8);
  },
);

test.skipIf(!canReceive)('another process than the one that is watched sends no signs of life', async () => {
  const address = join(dir, 'other');
  receiver = await NotifyReceiver.listen(address);
  const env = { NOTIFY_SOCKET: address, WATCHDOG_USEC: '20000', WATCHDOG_PID: String(process.pid + 1) };
  (await openServiceManager({ env, clock })).ready('serving');
  await heard(1);
  await new Promise((resolve) => setTimeout(resolve, 200));
  expect(receiver.texts).toEqual(['READY=1\nSTATUS=serving']);
});

test.skipIf(!canReceive)('what a full queue refuses is sent again, in order', async () => {
  const address = join(dir, 'full');
  receiver = await NotifyReceiver.listen(address, 1);
  while (native.sendDatagram(address, 'FILLER=1') === 0);
  const warnings: string[] = [];
  const manager = await openServiceManager({ env: { NOTIFY_SOCKET: address }, clock, onWarning: (message) => warnings.push(message) });
  manager.ready('serving');
  manager.stopping();
  await vi.waitFor(() => expect(receiver?.texts.at(-1)).toMatch(/^STOPPING=1/), { timeout: 20_000, interval: 10 });
  expect(receiver.texts.filter((text) => text !== 'FILLER=1')).toEqual(['READY=1\nSTATUS=serving', 'STOPPING=1\nSTATUS=draining']);
  expect(warnings).toEqual([]);
});

test('without a service manager nothing is sent', async () => {
  const sent = vi.spyOn(native, 'sendDatagram');
  for (const env of [{}, { NOTIFY_SOCKET: '' }]) {
    const manager = await openServiceManager({ env, clock });
    manager.ready('serving');
    manager.stopping();
  }
  expect(sent).not.toHaveBeenCalled();
  sent.mockRestore();
});

test.skipIf(process.platform !== 'linux')('a manager that is not there is told of once, and nothing else happens', async () => {
  const warnings: string[] = [];
  const env = { NOTIFY_SOCKET: join(dir, 'none') };
  const manager = await openServiceManager({ env, clock, onWarning: (message) => warnings.push(message) });
  manager.ready('serving');
  manager.stopping();
  expect(warnings).toEqual(['the service manager cannot be told (NOTIFY_SOCKET): ENOENT']);
});

test.skipIf(process.platform !== 'linux')('addresses that are no names of Unix sockets are refused', () => {
  const { EINVAL, ENOENT, ECONNREFUSED } = constants.errno;
  const longest = `/${'a'.repeat(106)}`;
  for (const address of [
    '',
    '/',
    '@',
    'vsock:2:1',
    'relative',
    '/a\0b',
    '@a\0b',
    `${longest}a`,
    `@${'a'.repeat(107)}`,
    '/'.repeat(100_000),
  ])
    expect(native.sendDatagram(address, 'READY=1'), address.slice(0, 20)).toBe(EINVAL);
  expect(native.sendDatagram(longest, 'READY=1')).toBe(ENOENT);
  // As long as it can be, and nobody's.
  expect(native.sendDatagram(`@${'a'.repeat(106)}`, 'READY=1')).toBe(ECONNREFUSED);
  expect(() => native.sendDatagram(1 as never, 'READY=1')).toThrow(TypeError);
});
