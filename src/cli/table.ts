import CliTable from 'cli-table3';
import stringWidth from 'string-width';

/** One column of a printed table; a name with a unit says which unit all of its values are in. */
export interface Column<Row> {
  readonly align: 'left' | 'right';
  /** The heading, and the text of each row. */
  cells(rows: readonly Row[]): { readonly heading: string; readonly values: readonly string[] };
}

export const text = <Row>(heading: string, of: (row: Row) => string | null): Column<Row> => ({
  align: 'left',
  cells: (rows) => ({ heading, values: rows.map((row) => printable(of(row) ?? '')) }),
});

/** Null is an empty cell. */
export const numeric = <Row>(heading: string, of: (row: Row) => number | null, decimals = 0): Column<Row> => ({
  align: 'right',
  cells: (rows) => ({ heading, values: rows.map((row) => of(row)?.toFixed(decimals) ?? '') }),
});

/** Right-aligned text that is made of a number elsewhere. */
export const figure = <Row>(heading: string, of: (row: Row) => string): Column<Row> => ({ ...text(heading, of), align: 'right' });

/** Of a change. */
export const signedPercent = (share: number): string => `${share < 0 ? '' : '+'}${(100 * share).toPrecision(3)} %`;

const BYTE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'].map((name, power) => ({ name, size: 2 ** (10 * power) }));
const US_UNITS = [
  { name: 'us', size: 1 },
  { name: 'ms', size: 1e3 },
  { name: 's', size: 1e6 },
];

/** Bytes, in the unit that the largest reads best in. */
export const bytes = <Row>(heading: string, of: (row: Row) => number | null): Column<Row> => inUnits(heading, of, BYTE_UNITS, 1);
/** Microseconds, in the unit that the largest reads best in: milliseconds from 10,000 us. */
export const microseconds = <Row>(heading: string, of: (row: Row) => number | null): Column<Row> => inUnits(heading, of, US_UNITS, 10);

function inUnits<Row>(
  heading: string,
  of: (row: Row) => number | null,
  units: readonly { readonly name: string; readonly size: number }[],
  /** A unit is taken when the largest value is at least so many of it. */
  least: number,
): Column<Row> {
  return {
    align: 'right',
    cells: (rows) => {
      const values = rows.map(of);
      const present = values.filter((value) => value !== null && value > 0) as number[];
      const largest = Math.max(0, ...present);
      const unit = units.findLast(({ size }) => largest >= least * size) ?? (units[0] as (typeof units)[number]);
      const decimals = unit === units[0] ? 0 : decimalsFor(Math.min(...present) / unit.size);
      return {
        heading: `${heading}, ${unit.name}`,
        values: values.map((value) => (value === null ? '' : (value / unit.size).toFixed(decimals))),
      };
    },
  };
}

/** Enough for two digits of the smallest value, and at most three. */
const decimalsFor = (smallest: number): number => Math.min(3, Math.max(1, 1 - Math.floor(Math.log10(smallest))));

/** Names of models are anybody's: a control character in one may not reach the terminal. */
const printable = (value: string): string =>
  value.replace(/\p{Cc}/gu, (character) => `\\u${(character.codePointAt(0) ?? 0).toString(16).padStart(4, '0')}`);

const GAP = '  ';
/** Width of what is no terminal. */
const DEFAULT_COLUMNS = 80;

export function printTable<Row>(rows: readonly Row[], columns: readonly Column<Row>[]): void {
  if (rows.length > 0) console.log(renderTable(rows, columns, process.stdout.columns ?? DEFAULT_COLUMNS));
}

/**
 * Rows below their headings. What is wider than the terminal is folded: each row becomes a block of "heading: value" lines, and as many blocks
 * stand side by side as fit.
 */
export function renderTable<Row>(rows: readonly Row[], columns: readonly Column<Row>[], width: number): string {
  const cells = columns.map((column) => ({ align: column.align, ...column.cells(rows) }));
  const aligns = cells.map(({ align }) => align);
  const lines = [cells.map(({ heading }) => heading), ...rows.map((_, row) => cells.map(({ values }) => values[row] ?? ''))];
  const fits = sum(cells.map(({ heading, values }) => Math.max(...[heading, ...values].map(stringWidth)))) + gaps(cells.length) <= width;
  if (fits) return layOut(lines, aligns);

  const labels = cells.map(({ heading }) => `${heading}:`);
  const labelWidth = Math.max(...labels.map(stringWidth));
  const room = Math.max(1, width - labelWidth - GAP.length);
  const blocks = rows.map((_, row) => cells.map(({ values }) => values[row] ?? ''));
  const widths = blocks.map((block) => Math.max(...block.map(stringWidth)));
  const folded: string[] = [];
  for (let first = 0, end = 1; first < blocks.length; first = end, end++) {
    let used = widths[first] as number;
    for (; end < blocks.length && used + GAP.length + (widths[end] as number) <= room; end++) used += GAP.length + (widths[end] as number);
    const beside = blocks.slice(first, end);
    const together = labels.map((label, line) => [label, ...beside.map((block) => block[line] ?? '')]);
    folded.push(layOut(together, together[0]?.map(() => 'left') ?? [], used > room ? [labelWidth, room] : undefined));
  }
  return folded.join('\n\n');
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
const gaps = (columns: number): number => Math.max(0, columns - 1) * GAP.length;

/** The library's table without its frame; text wraps where widths are given. */
function layOut(lines: readonly (readonly string[])[], aligns: readonly ('left' | 'right')[], widths?: readonly number[]): string {
  const none = ['top', 'top-mid', 'top-left', 'top-right', 'bottom', 'bottom-mid', 'bottom-left', 'bottom-right'];
  const chars = [...none, 'left', 'left-mid', 'mid', 'mid-mid', 'right', 'right-mid'].map((name) => [name, '']);
  const table = new CliTable({
    chars: { ...Object.fromEntries(chars), middle: GAP },
    style: { 'padding-left': 0, 'padding-right': 0, head: [], border: [], compact: true },
    colAligns: [...aligns],
    ...(widths && { colWidths: [...widths], wordWrap: true, wrapOnWordBoundary: false }),
  });
  table.push(...lines.map((line) => [...line]));
  return table
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n');
}
