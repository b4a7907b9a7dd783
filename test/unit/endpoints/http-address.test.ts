import { expect, test } from 'vitest';
import { httpAddress } from '../../../src/endpoints/http-address.js';

test.each([
  ['127.0.0.1:9400', { host: '127.0.0.1', port: 9400 }],
  ['localhost:0', { host: 'localhost', port: 0 }],
  ['[::1]:9400', { host: '::1', port: 9400 }],
  ['*:9400', { port: 9400 }],
])('%s is an address', (text, address) => {
  expect(httpAddress('metrics', text)).toEqual(address);
});

test.each(['9400', ':9400', 'host', 'host:', 'host:65536', '::1:9400', 'http://host:1', 'a b:1', ''])('%j is none', (text) => {
  expect(() => httpAddress('metrics', text)).toThrow(expect.objectContaining({ code: 'invalid_argument', details: { field: 'metrics' } }));
});
