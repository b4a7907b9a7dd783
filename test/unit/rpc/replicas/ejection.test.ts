import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Ejection } from '../../../../src/rpc/replicas/ejection.js';

const failUntilEjected = (ejection: Ejection, now: number): number => {
  for (let failures = 1; failures < 100; failures++) if (ejection.failed(now)) return failures;
  return expect.fail('not ejected');
};

test('5 failures in a row eject, fewer with an answer between them do not', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 3 }), (rows) => {
      const ejection = new Ejection(0);
      for (const failures of rows) {
        for (let n = 0; n < failures; n++) expect(ejection.failed(0)).toBe(false);
        ejection.succeeded(0);
      }
      expect(ejection.sound).toBe(true);
      expect(failUntilEjected(ejection, 0)).toBe(5);
      expect(ejection.sound).toBe(false);
    }),
  );
});

test('half of at least 20 attempts of a window eject, though none fail in a row; older ones do not count', () => {
  const alternating = (ejection: Ejection, now: number, attempts: number): boolean => {
    for (let n = 0; n < attempts; n++) {
      if (n % 2 === 0) ejection.succeeded(now);
      else if (ejection.failed(now)) return true;
    }
    return false;
  };
  expect(alternating(new Ejection(0), 0, 19)).toBe(false);
  expect(alternating(new Ejection(0), 0, 20)).toBe(true);
  const later = new Ejection(0);
  expect(alternating(later, 0, 18)).toBe(false);
  expect(alternating(later, 10_000, 18)).toBe(false);
  // A third of them.
  const better = new Ejection(0);
  for (let n = 0; n < 300; n++) {
    if (n % 3 === 0) expect(better.failed(0)).toBe(false);
    else better.succeeded(0);
  }
});

/** What happens to an ejected replica, one after another. */
const event = fc.record({ afterMs: fc.nat(40_000), what: fc.constantFrom('probe', 'answer', 'failure', 'withdrawn') });

test('an ejected replica gets one probe when its time is over; each failed one doubles the next time, up to 30 s', () => {
  fc.assert(
    fc.property(fc.array(event, { maxLength: 40 }), (events) => {
      const ejection = new Ejection(0);
      failUntilEjected(ejection, 0);
      let now = 0;
      let model: { state: 'ejected' | 'probed' | 'sound'; until: number; next: number } = { state: 'ejected', until: 500, next: 1000 };
      for (const { afterMs, what } of events) {
        now += afterMs;
        const awaits = model.state === 'ejected' && now >= model.until;
        expect(ejection.awaitsProbe(now)).toBe(awaits);
        if (what === 'probe' && awaits) {
          ejection.probe(now);
          model.state = 'probed';
        } else if (what === 'answer') {
          ejection.succeeded(now);
          if (model.state === 'probed') {
            expect(ejection.sound).toBe(true);
            return;
          }
        } else if (what === 'withdrawn') {
          ejection.probeWithdrawn(now);
          if (model.state === 'probed') model.state = 'ejected';
        } else if (what === 'failure') {
          expect(ejection.failed(now)).toBe(model.state === 'probed');
          if (model.state === 'probed') model = { state: 'ejected', until: now + model.next, next: Math.min(30_000, 2 * model.next) };
        }
        expect(ejection.sound).toBe(false);
        expect(ejection.isProbed).toBe(model.state === 'probed');
      }
    }),
    { numRuns: 500 },
  );
});

test('a replica that fails again soon after it came back stays away for longer; after 30 s sound, as at first', () => {
  const ejectionAt = (soundMs: number): number => {
    const ejection = new Ejection(0);
    failUntilEjected(ejection, 0);
    ejection.probe(500);
    ejection.succeeded(500);
    const again = 500 + soundMs;
    failUntilEjected(ejection, again);
    for (let ms = 0; ms < 5000; ms += 100) if (ejection.awaitsProbe(again + ms)) return ms;
    return Number.NaN;
  };
  expect(ejectionAt(10_000)).toBe(1000);
  expect(ejectionAt(30_000)).toBe(500);
});

test('what began before the ejection or the probe tells nothing: it neither ejects again nor brings back', () => {
  const ejection = new Ejection(0);
  failUntilEjected(ejection, 100);
  ejection.probe(600);
  expect(ejection.failed(601, 90)).toBe(false);
  ejection.succeeded(602, 599);
  ejection.probeWithdrawn(599);
  expect(ejection.isProbed).toBe(true);
  ejection.succeeded(603, 600);
  expect(ejection.sound).toBe(true);
});
