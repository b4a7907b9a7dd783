import { afterEach, expect, test } from 'vitest';
import { planTreemap } from '../../../../src/lab/report/charts/plan-treemap.js';
import { Charts } from '../../../../src/lab/report/charts.js';

/** Names of properties that every object has are names like others. */
const NAMES = ['__proto__', 'constructor', 'toString', 'hasOwnProperty'];

afterEach(() => {
  // What a chart leaves there would be in the objects of all tests.
  for (const key of Object.keys(Object.prototype)) Reflect.deleteProperty(Object.prototype, key);
});

test('tables and shards may be called as properties of all objects, whatever the width: these stay as they are', async () => {
  const tables = NAMES.map((table, at) => ({ table, bytes: 100 * (at + 1) }));
  const charts = await Charts.load();
  for (const width of [1100, 360, 120]) {
    const { markup } = charts.svg(planTreemap([{ shard: 'constructor', tables }]), width);
    expect(Object.keys(Object.prototype)).toEqual([]);
    expect(Object.keys(Object)).toEqual([]);
    if (width > 120) for (const name of NAMES) expect(markup).toContain(name);
  }
});

test('gaps between shards show the page, light or dark', async () => {
  const loads = ['a', 'b'].map((shard) => ({ shard, tables: [{ table: 't', bytes: 10 }] }));
  const { markup } = (await Charts.load()).svg(planTreemap(loads), 600);
  const all = [...markup.matchAll(/<(?:path d="M0 0l600 0|rect width="600")[^>]*/g)].map(([drawn]) => drawn);
  expect(all.length).toBeGreaterThan(0);
  for (const drawn of all) expect(drawn).toContain('fill="none"');
});
