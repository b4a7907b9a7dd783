import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { idsPerRow, parseReuse, type Reuse, rowSampler } from '../../../../src/lab/generate/row-reuse.js';
import { SeededNumbers } from '../../../../src/lab/generate/synthetic-values.js';

/** locality_stats_2021.txt and _2022.txt of github.com/facebookresearch/dlrm_datasets, beside the checkout or where the variable says. */
const DATA = process.env['TERABAG_DLRM_DATASETS'] ?? fileURLToPath(new URL('../../../../../shared/data/dlrm-datasets/', import.meta.url));
const BUCKETS = 17;

/** Bucket 0: read once; b: more than 2^(b - 1) and at most 2^b times; the last: more than 2^15. */
const bucketOf = (count: number): number => Math.min(BUCKETS - 1, Math.ceil(Math.log2(count)));

interface Histograms {
  readonly rows: number[];
  readonly accesses: number[];
}

/** Shares of the rows that are read at all, and of the accesses, by how often a row is read; counted in a map. */
function count(streams: readonly Int32Array[]): Histograms & { readonly perRow: number } {
  const [rows, accesses] = [new Array<number>(BUCKETS).fill(0), new Array<number>(BUCKETS).fill(0)];
  let [distinct, total] = [0, 0];
  for (const ids of streams) {
    const counts = new Map<number, number>();
    for (const id of ids) counts.set(id, (counts.get(id) ?? 0) + 1);
    for (const n of counts.values()) {
      rows[bucketOf(n)]!++;
      accesses[bucketOf(n)]! += n;
    }
    distinct += counts.size;
    total += ids.length;
  }
  return { rows: rows.map((n) => n / distinct), accesses: accesses.map((n) => n / total), perRow: total / distinct };
}

function draw(rows: number, reuse: Reuse, ids: number, key: number, seed = key + 1): Int32Array {
  const indices = new Int32Array(ids);
  rowSampler(rows, reuse, key).fill(indices, new SeededNumbers(seed));
  return indices;
}

/** The last section of the file, whose trace is as long as most. */
function published(year: number): Histograms & { readonly perRow: number } {
  const text = readFileSync(join(DATA, `locality_stats_${year}.txt`), 'utf8');
  const section = text.slice(text.lastIndexOf('Locality stats'));
  const shares = [...section.matchAll(/^\(\d+(?:, \d+\]|\+): ([\d.]+)$/gm)].map(([, share]) => Number(share));
  expect(shares.length).toBe(2 * BUCKETS);
  return { rows: shares.slice(0, BUCKETS), accesses: shares.slice(BUCKETS), perRow: Number(/col size: ([\d.]+)/.exec(section)?.[1]) };
}

for (const year of [2021, 2022] as const) {
  const there = existsSync(join(DATA, `locality_stats_${year}.txt`));
  if (!there) console.warn(`not tested: reuse against the published histogram, locality_stats_${year}.txt is not in ${DATA}`);
  test.skipIf(!there)(`rows recur as in the published traces of ${year}: each bucket of both histograms within 3 points`, () => {
    const wanted = published(year);
    // One table of a million rows, and many of the traces' mean size, whose hottest rows are few and not in every table.
    const large = [draw(1_000_000, { type: 'trace', year }, Math.round(1_000_000 * idsPerRow(year)), 0)];
    const small = Array.from({ length: 16 }, (_, key) =>
      draw(100_000, { type: 'trace', year }, Math.round(100_000 * idsPerRow(year)), key),
    );
    for (const [name, streams] of Object.entries({ large, small })) {
      const found = count(streams);
      for (const key of ['rows', 'accesses'] as const) {
        const points = found[key].map((share, bucket) => 100 * Math.abs(share - wanted[key][bucket]!));
        const worst = Math.max(...points);
        expect(worst, `${name}, ${key}, bucket ${points.indexOf(worst)}`).toBeLessThan(3);
      }
      expect(Math.abs(found.perRow / wanted.perRow - 1), `${name}: accesses per row`).toBeLessThan(0.1);
    }
  });
}

test.each(['uniform', 'zipf:0.8', 'zipf:1', 'trace-2021', 'trace-2022'])('%s gives rows of the table, whatever its size', (text) => {
  for (const rows of [1, 2, 3, 100, 1_000_003, 2 ** 31 - 1]) {
    const ids = draw(rows, parseReuse(text), 2000, rows % 7);
    expect(ids.every((id) => id >= 0 && id < rows)).toBe(true);
    if (rows > 10 ** 6) expect(new Set(ids).size).toBeGreaterThan(100);
  }
});

test('popular rows are the same for every seed, and lie apart', () => {
  const popular = [1, 2].map((seed) => {
    const counts = new Map<number, number>();
    for (const id of draw(200_000, { type: 'trace', year: 2022 }, 400_000, 4, seed)) counts.set(id, (counts.get(id) ?? 0) + 1);
    return [...counts]
      .sort(([, a], [, b]) => b - a)
      .slice(0, 5)
      .map(([id]) => id);
  });
  const common = popular[0]!.filter((id) => popular[1]!.includes(id));
  expect(common.length).toBeGreaterThanOrEqual(3);
  const sorted = popular[0]!.toSorted((a, b) => a - b);
  expect(sorted.some((id, n) => n > 0 && id - sorted[n - 1]! === 1)).toBe(false);
});

test('Zipf: the share of the first ranks is that of the continuous law', () => {
  const ids = draw(10_000, { type: 'zipf', exponent: 0.5 }, 200_000, 0);
  // Ranks below 100 of 10,000: (100^0.5 - 1) / (10,001^0.5 - 1).
  const counts = new Map<number, number>();
  for (const id of ids) counts.set(id, (counts.get(id) ?? 0) + 1);
  const first = Array.from({ length: 99 }, (_, rank) => counts.get((rank * 1_000_003) % 10_000) ?? 0).reduce((sum, n) => sum + n, 0);
  expect(first / ids.length).toBeCloseTo(9 / (Math.sqrt(10_001) - 1), 2);
});

test('what is no way to recur is refused', () => {
  for (const text of ['zipf', 'zipf:', 'zipf:x', 'trace', 'trace-2020', '']) expect(() => parseReuse(text)).toThrow(/reuse has to be/);
});
