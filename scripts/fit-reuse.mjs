// Fits the classes of rows in src/lab/generate/row-reuse.ts to the reuse statistics of facebookresearch/dlrm_datasets, and prints them.
// Usage: node scripts/fit-reuse.mjs locality_stats_2021.txt
import { readFileSync } from 'node:fs';

// Bucket b holds rows that are read more than EDGES[b] and at most EDGES[b + 1] times.
const EDGES = [0, ...Array.from({ length: 16 }, (_, power) => 2 ** power), Number.POSITIVE_INFINITY];
const BUCKETS = EDGES.length - 1;
const RATES = Array.from({ length: 18 }, (_, power) => 2 ** (power - 1));
const STEPS = 20_000;
/** Classes below this share of the accesses are left out. */
const NEGLIGIBLE = 1e-6;

/** Means over the file's traces of one length: one section differs in length and is passed over. */
function read(path) {
  const sections = readFileSync(path, 'utf8').split('Locality stats').slice(1);
  const traces = sections.map((text) => {
    const number = (label) => Number(text.match(new RegExp(`${label}: ([0-9.]+)`))[1]);
    const shares = [...text.matchAll(/^\(\d+(?:, \d+\]|\+): ([0-9.]+)$/gm)].map(([, share]) => Number(share));
    const [ids, rows] = [number('# of indices'), number('# of unique cols')];
    return { ids, perRow: ids / rows, rows: shares.slice(0, BUCKETS), accesses: shares.slice(BUCKETS) };
  });
  const alike = traces.filter(({ ids }) => Math.abs(ids / traces.at(-1).ids - 1) < 0.01);
  const mean = (of) => alike.reduce((sum, trace) => sum + of(trace), 0) / alike.length;
  const means = (key) => EDGES.slice(1).map((_, bucket) => mean((trace) => trace[key][bucket]));
  return { traces: alike.length, perRow: mean(({ perRow }) => perRow), rows: means('rows'), accesses: means('accesses') };
}

/** P(n <= most) of a Poisson variable; the normal law far from 0. */
function poissonAtMost(most, rate) {
  if (most < 0) return 0;
  if (most > rate + 40 * Math.sqrt(rate) + 40) return 1;
  if (rate > 2000) return normalAtMost((most + 0.5 - rate) / Math.sqrt(rate));
  let [sum, logTerm] = [0, -rate];
  for (let n = 0; n <= most; n++) {
    sum += Math.exp(logTerm);
    logTerm += Math.log(rate / (n + 1));
  }
  return Math.min(1, sum);
}

/** Abramowitz and Stegun 26.2.17, within 1e-7. */
function normalAtMost(z) {
  const t = 1 / (1 + 0.2316419 * Math.abs(z));
  const polynomial = t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
  const tail = (polynomial * Math.exp((-z * z) / 2)) / Math.sqrt(2 * Math.PI);
  return z > 0 ? 1 - tail : tail;
}

/** Shares that fit y = matrix x best in Kullback-Leibler divergence, none negative (Richardson, 1972; Lucy, 1974). */
function solve(matrix, y) {
  let x = RATES.map((rate) => 1 / Math.max(1, rate));
  const columns = RATES.map((_, k) => matrix.reduce((sum, row) => sum + row[k], 0));
  for (let step = 0; step < STEPS; step++) {
    const ratios = matrix.map(
      (row, b) =>
        y[b] /
        Math.max(
          1e-12,
          row.reduce((sum, value, k) => sum + value * x[k], 0),
        ),
    );
    x = x.map((value, k) => (value * matrix.reduce((sum, row, b) => sum + row[k] * ratios[b], 0)) / columns[k]);
  }
  return x;
}

const [path] = process.argv.slice(2);
if (path === undefined) throw new Error('usage: node scripts/fit-reuse.mjs locality_stats_YEAR.txt');
const published = read(path);
const between = (bucket, rate, shift) =>
  Math.max(0, poissonAtMost(EDGES[bucket + 1] - shift, rate) - poissonAtMost(EDGES[bucket] - shift, rate));
// Accesses of a Poisson number of reads: n P(n) = rate P(n - 1).
const rowMatrix = published.rows.map((_, b) => RATES.map((rate) => between(b, rate, 0)));
const accessMatrix = published.rows.map((_, b) => RATES.map((rate) => (rate * between(b, rate, 1)) / published.perRow));
const matrix = [...rowMatrix, ...accessMatrix];
const x = solve(
  matrix,
  [...published.rows, ...published.accesses].map((share) => Math.max(1e-9, share)),
);
const errors = matrix.map((row, b) => row.reduce((sum, value, k) => sum + value * x[k], 0) - [...published.rows, ...published.accesses][b]);
const kept = RATES.map((rate, k) => [rate, x[k]]).filter(([rate, rows]) => (rate * rows) / published.perRow > NEGLIGIBLE);
const total = kept.reduce((sum, [, rows]) => sum + rows, 0);
for (const [rate, rows] of kept.reverse()) console.log(`    [${rate}, ${(rows / total).toExponential(3)}],`);
const worst = (from) => (100 * Math.max(...errors.slice(from, from + BUCKETS).map(Math.abs))).toFixed(2);
console.log(`${published.traces} traces; points off at most: ${worst(0)} of the rows, ${worst(BUCKETS)} of the accesses`);
