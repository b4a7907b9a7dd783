import { expect } from 'vitest';

/** The rules of catapult's Trace Event Format for what is exported: required fields, order, and spans of a track that nest. */
export function expectValidTrace(trace: { readonly traceEvents: readonly Record<string, unknown>[] }): void {
  const tracks = new Map<string, { ts: number; end: number }[]>();
  const named = new Set<string>();
  let latest = Number.NEGATIVE_INFINITY;
  for (const event of trace.traceEvents) {
    const { name, ph, pid, tid, ts, dur, args } = event;
    expect(typeof name === 'string' && name.length > 0).toBe(true);
    expect([pid, tid].every((id) => Number.isInteger(id) && (id as number) >= 0)).toBe(true);
    expect(Number.isFinite(ts)).toBe(true);
    if (ph === 'M') {
      expect(['process_name', 'thread_name']).toContain(name);
      expect(typeof (args as { name: unknown }).name).toBe('string');
      named.add(name === 'process_name' ? `${pid}` : `${pid}.${tid}`);
      continue;
    }
    expect(ph).toBe('X');
    expect(typeof event['cat']).toBe('string');
    expect(Number.isFinite(dur) && (dur as number) >= 0).toBe(true);
    expect(ts as number).toBeGreaterThanOrEqual(latest);
    latest = ts as number;
    expect([named.has(`${pid}`), named.has(`${pid}.${tid}`)]).toEqual([true, true]);
    const open = tracks.get(`${pid}.${tid}`) ?? [];
    tracks.set(`${pid}.${tid}`, open);
    // In nanoseconds, which the numbers hold exactly.
    const [from, to] = [Math.round((ts as number) * 1000), Math.round((ts as number) * 1000) + Math.round((dur as number) * 1000)];
    while (open.length > 0 && (open.at(-1)?.end as number) <= from) open.pop();
    expect(to).toBeLessThanOrEqual(open.at(-1)?.end ?? Number.POSITIVE_INFINITY);
    open.push({ ts: from, end: to });
  }
}
