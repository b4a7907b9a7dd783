import fc from 'fast-check';
import { expect, test } from 'vitest';
import { canonicalEndpoint, isEndpoint, isListenEndpoint, parseEndpoint, tcpAddress } from '../../../src/endpoints/endpoint.js';

test.each([
  ['tcp://127.0.0.1:7400', { kind: 'address' }],
  ['tcp://[::1]:65535', { kind: 'address' }],
  ['tcp://[fe80::1%eth0]:1', { kind: 'address' }],
  ['ipc:///run/shard', { kind: 'address' }],
  ['ipc://@abstract', { kind: 'address' }],
  ['tcp://shard-0.example.com:7400', { kind: 'name', host: 'shard-0.example.com', port: 7400 }],
  ['tcp://localhost:1', { kind: 'name', host: 'localhost', port: 1 }],
  ['tcp://999.0.0.1:1', { kind: 'name', host: '999.0.0.1', port: 1 }],
  ['srv://_terabag._tcp.example.com', { kind: 'service', name: '_terabag._tcp.example.com' }],
  ['srv://shard-0.service.consul', { kind: 'service', name: 'shard-0.service.consul' }],
  ['file:///etc/terabag/shard%200.txt', { kind: 'file', path: '/etc/terabag/shard 0.txt' }],
])('%s is an endpoint', (text, parsed) => {
  expect(parseEndpoint(text)).toEqual(parsed);
});

test.each([
  ...['', 'tcp://', 'tcp://x', 'tcp://x:', 'tcp://:1', 'tcp://x:0', 'tcp://x:65536', 'tcp://x:1:2', 'tcp://x:*', 'tcp://x y:1'],
  ...['tcp://[x]:1', 'tcp://[::1]', 'tcp://::1:1', 'ipc://', 'x:1', 'udp://x:1', 'http://x', ' tcp://x:1'],
  ...['srv://', 'srv://a..b', 'srv://.a', 'srv://a.', 'srv://a:1', 'srv://a/b', `srv://${'a'.repeat(64)}`, `srv://${'abc.'.repeat(64)}d`],
  ...['file://', 'file://relative/path', 'file://host/path', 'file:///a?b', 'file:///a#b', 'file:///a%2fb', 'file:/a'],
])('%j is none', (text) => {
  expect(parseEndpoint(text)).toBeNull();
});

test('a process listens on an address or a name, and on a free port where it may', () => {
  expect(['tcp://127.0.0.1:1', 'tcp://host:1', 'ipc://x', 'srv://a.b', 'file:///a'].map(isEndpoint)).toEqual([
    true,
    true,
    true,
    false,
    false,
  ]);
  expect(['tcp://*:1', 'tcp://eth0:*', 'tcp://127.0.0.1:0', 'srv://a.b', 'file:///a'].map(isListenEndpoint)).toEqual([
    ...[true, true, true, false, false],
  ]);
});

test('whatever text comes is parsed or refused, and an address with its port is one', () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.constantFrom('tcp', 'ipc', 'srv', 'file').chain((scheme) => fc.string().map((rest) => `${scheme}://${rest}`)),
      ),
      (text) => {
        expect(() => parseEndpoint(text)).not.toThrow();
      },
    ),
  );
  fc.assert(
    fc.property(fc.oneof(fc.ipV4(), fc.ipV6()), fc.integer({ min: 1, max: 65_535 }), (ip, port) => {
      expect(parseEndpoint(tcpAddress(ip, port))).toEqual({ kind: 'address' });
    }),
  );
});

test.each([
  ['tcp://Shard-0.Example.com.:7400', 'tcp://shard-0.example.com:7400'],
  ['tcp://127.0.0.1:07400', 'tcp://127.0.0.1:7400'],
  ['tcp://[FD00:0:0::0001]:1', 'tcp://[fd00::1]:1'],
  ['tcp://[FE80::1%Eth0]:1', 'tcp://[fe80::1%Eth0]:1'],
  ['srv://_Terabag._tcp.example.com', 'srv://_terabag._tcp.example.com'],
  ['ipc:///run/Shard', 'ipc:///run/Shard'],
  ['file:///etc/Shard.txt', 'file:///etc/Shard.txt'],
])('%s is another spelling of %s', (text, canonical) => {
  expect(canonicalEndpoint(text)).toBe(canonical);
  expect(canonicalEndpoint(canonical)).toBe(canonical);
});
