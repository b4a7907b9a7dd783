import { expect, test } from 'vitest';
import { wholeTablesWarning } from '../../../src/cli/whole-tables.js';
import type { Plan } from '../../../src/plan/file/plan.js';
import { specOf, table } from '../../reference/specs.js';

const spec = specOf([table('split', 9, 4), table('whole', 5, 4)]);
const plan: Plan = {
  terabagPlan: 1,
  strategy: 'by hand',
  model: { name: 'm', version: '1', hash: 'a'.repeat(64) },
  shards: ['s0', 's1', 's2'].map((name) => ({ name, endpoints: [`ipc://${name}`] })),
  tables: [
    { table: 'split', parts: ['s0', 's1'] },
    { table: 'whole', parts: ['s2'] },
  ],
};
const served = { plan, spec, dir: './model', planPath: 'plan.json', residency: 'populate' } as const;

test('parts of tables whose files are whole are warned of, with what they take, what they are, and the remedy', () => {
  // 9 rows of 16 bytes; part 1 has rows 1, 3, 5 and 7.
  const warning = wholeTablesWarning(served, 's1');
  expect(warning).toMatch(/^s1 maps and reads ahead 144 bytes for 64 of its own: 1 tables .* lie whole in \.\/model, first split; /);
  expect(warning).toMatch(/terabag publish plan\.json <out> --bundle \.\/model/);
  expect(wholeTablesWarning({ ...served, residency: 'lock' })).toMatch(/^s0 locks 144 bytes for 80 of its own/);
});

test('nothing is said of shards that hold tables whole, of copied rows, and of what was published', () => {
  expect(wholeTablesWarning(served, 's2')).toBeNull();
  expect(wholeTablesWarning({ ...served, residency: 'hugepages' })).toBeNull();
  const published = { shard: 's1', source: 'b'.repeat(64), parts: [], files: {} };
  expect(wholeTablesWarning({ ...served, spec: { ...spec, published } }, 's1')).toBeNull();
});
