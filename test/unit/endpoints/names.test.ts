import { afterAll, beforeAll, expect, test } from 'vitest';
import { namesOf, systemNames } from '../../../src/endpoints/names.js';
import { type DnsServer, startDnsServer } from '../../reference/dns-server.js';

let server: DnsServer;
beforeAll(async () => {
  server = await startDnsServer({
    'both.x': { A: ['10.0.0.1', '10.0.0.2'], AAAA: ['fd00::1:2'] },
    'four.x': { A: ['10.0.0.3'] },
    'six.x': { AAAA: ['2001:db8::1'] },
    'none.x': {},
    '_t._tcp.x': { SRV: ['both.x:7400', 'four.x:7401'] },
  });
});
afterAll(() => server.close());

test('a name has its A and its AAAA records, and may have those of one kind only', async () => {
  const names = namesOf([server.address]);
  expect([...(await names.addresses('both.x'))].sort()).toEqual(['10.0.0.1', '10.0.0.2', 'fd00::1:2']);
  expect(await names.addresses('four.x')).toEqual(['10.0.0.3']);
  expect(await names.addresses('six.x')).toEqual(['2001:db8::1']);
  expect((await names.services('_t._tcp.x')).map(({ name, port }) => `${name}:${port}`).sort()).toEqual(['both.x:7400', 'four.x:7401']);
});

test('what is not found, or cannot be answered, fails with the reason', async () => {
  const names = namesOf([server.address]);
  await expect(names.addresses('none.x')).rejects.toMatchObject({ code: 'ENODATA' });
  await expect(names.addresses('unknown.x')).rejects.toMatchObject({ code: 'ENOTFOUND' });
  await expect(names.services('unknown.x')).rejects.toMatchObject({ code: 'ENOTFOUND' });
  const { zone } = server;
  server.zone = null;
  await expect(names.addresses('both.x')).rejects.toMatchObject({ code: 'ESERVFAIL' });
  server.zone = zone;
});

test("the system's names are those of its file of hosts, too", async () => {
  expect(await systemNames.addresses('localhost')).toEqual(expect.arrayContaining(['127.0.0.1']));
  expect(await systemNames.addresses('127.0.0.2')).toEqual(['127.0.0.2']);
});

test('servers that are no addresses are refused', () => {
  expect(() => namesOf(['ns.example.com'])).toThrow(
    expect.objectContaining({
      code: 'invalid_argument',
      details: { field: 'nameServers' },
      message: expect.stringMatching(/: ns\.example\.com$/),
    }),
  );
});
