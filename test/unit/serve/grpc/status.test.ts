import { status as Status } from '@grpc/grpc-js';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ERROR_CODES, TerabagError } from '../../../../src/errors.js';
import { statusOf, toldMessage } from '../../../../src/serve/grpc/status.js';

test('a status tells whether to ask again, whose fault it was, and the code itself', () => {
  const named = ERROR_CODES.map((code) => {
    const { code: status, details, metadata } = statusOf(new TerabagError(code, `what of ${code}`));
    expect([details, metadata.get('terabag-code')]).toEqual([`what of ${code}`, [code]]);
    return [code, Status[status]] as const;
  });
  expect(Object.fromEntries(named.filter(([, status]) => status !== 'INTERNAL'))).toEqual({
    invalid_argument: 'INVALID_ARGUMENT',
    index_out_of_range: 'INVALID_ARGUMENT',
    bad_offsets: 'INVALID_ARGUMENT',
    not_found: 'NOT_FOUND',
    unsupported: 'UNIMPLEMENTED',
    overloaded: 'UNAVAILABLE',
    draining: 'UNAVAILABLE',
    closed: 'UNAVAILABLE',
    shard_unavailable: 'UNAVAILABLE',
    deadline_exceeded: 'DEADLINE_EXCEEDED',
    aborted: 'CANCELLED',
  });
  expect(statusOf(new Error('a fault')).code).toBe(Status.INTERNAL);
});

test('any message fits a trailer, and short ones are told whole', () => {
  const text = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 50 }),
    fc.string({ maxLength: 50 }),
    fc.constant('\ud83d'),
    fc.constant('äöü😀'),
  );
  fc.assert(
    fc.property(text, fc.integer({ min: 0, max: 400 }), (part, times) => {
      const message = part.repeat(times);
      const told = toldMessage(message);
      expect(encodeURI(told).length).toBeLessThanOrEqual(4096);
      const whole = Buffer.from(message).toString();
      if (encodeURI(whole).length <= 4096) expect(told).toBe(whole);
      else expect(told.endsWith('…') && told.length > 100).toBe(true);
    }),
  );
});
