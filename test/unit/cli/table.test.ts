import { expect, test } from 'vitest';
import { bytes, type Column, microseconds, numeric, renderTable, text } from '../../../src/cli/table.js';

interface Held {
  readonly table: string;
  readonly size: number | null;
  readonly us: number;
}
const columns: Column<Held>[] = [
  text('table', ({ table }) => table),
  bytes('size', ({ size }) => size),
  microseconds('pooling', ({ us }) => us),
  numeric('bags', ({ us }) => us / 7, 1),
];
const rows: Held[] = [
  { table: 'user_id', size: 3 * 2 ** 30, us: 120 },
  { table: 'item', size: 2 ** 26, us: 25_000 },
  { table: 'none', size: null, us: 7 },
];

test('a table has headings with one unit a column, numbers at the right, no frame, no index and no quotes', () => {
  expect(renderTable(rows, columns, 80)).toBe(
    [
      'table    size, GiB  pooling, ms    bags',
      'user_id      3.000        0.120    17.1',
      'item         0.063       25.000  3571.4',
      'none                      0.007     1.0',
    ].join('\n'),
  );
});

test('small amounts are in bytes and microseconds', () => {
  const [heading] = renderTable([{ table: 't', size: 900, us: 9999 }], columns, 80).split('\n');
  expect(heading).toBe('table  size, B  pooling, us    bags');
});

test('what is wider than the terminal is folded into blocks of a line a value, side by side as they fit', () => {
  expect(renderTable(rows, columns, 35)).toBe(
    [
      ...['table:        user_id  item', 'size, GiB:    3.000    0.063', 'pooling, ms:  0.120    25.000', 'bags:         17.1     3571.4'],
      '',
      ...['table:        none', 'size, GiB:', 'pooling, ms:  0.007', 'bags:         1.0'],
    ].join('\n'),
  );
});

test('no line is wider than the terminal, whatever the names: long ones wrap', () => {
  const long = [{ table: 'x'.repeat(256), size: 1, us: 1 }, ...rows, { table: '日本'.repeat(40), size: 1, us: 1 }];
  for (const width of [30, 40, 80, 120]) {
    const lines = renderTable(long, columns, width).split('\n');
    // Wide characters take two columns.
    const columnsOf = (line: string): number => [...line].reduce((sum, character) => sum + (character > '\u2e80' ? 2 : 1), 0);
    for (const line of lines) expect(columnsOf(line)).toBeLessThanOrEqual(width);
    expect(lines.join('').match(/x/g)?.length).toBe(256);
  }
});

test('control characters of names are printed as what they are', () => {
  expect(renderTable([{ table: 'a\u001b[31m\nb', size: 1, us: 1 }], columns, 80)).toContain('a\\u001b[31m\\u000ab');
});
