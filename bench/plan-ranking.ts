import { native } from '../src/engine/native.js';
import { quantile } from '../src/lab/report/quantiles.js';
import { type Line, median } from './suite.js';

export interface CellResult {
  readonly shape: string;
  readonly strategy: string;
  readonly shards: number | null;
  readonly predicted: Figures;
  /** Medians over rounds. */
  readonly measured: Figures;
  /** Garbage collection of main, per request. */
  readonly collectionUs: number;
  /** By round. In a round all strategies answer the same requests. */
  readonly roundsUs: Readonly<Record<'cpuUs' | 'p50Us', readonly number[]>>;
}

interface Figures {
  /** CPU of all processes, and of the main shard's. */
  readonly cpuUs: number;
  readonly mainCpuUs: number;
  readonly p50Us: number;
}

const LIMIT = 0.25;

/** The distance of the quartiles: the spread of rounds. */
export function quartileRange(rounds: readonly number[]): number {
  const sorted = Float64Array.from(rounds).sort();
  return quantile(sorted, 0.75) - quantile(sorted, 0.25);
}

/** Two strategies for the same number of shards, round by round: a tie when the median of their differences is within these differences' spread. */
function pairs(results: readonly CellResult[]): { readonly wrong: string[]; readonly ties: number; readonly compared: number } {
  const wrong: string[] = [];
  let [ties, compared] = [0, 0];
  for (const [index, a] of results.entries()) {
    for (const b of results.slice(index + 1)) {
      if (a.shards !== null && b.shards !== null && a.shards !== b.shards) continue;
      compared++;
      const differences = a.roundsUs.cpuUs.map((us, round) => us - (b.roundsUs.cpuUs[round] as number));
      const apart = median(differences);
      if (Math.abs(apart) <= quartileRange(differences)) ties++;
      else if (apart * (a.predicted.cpuUs - b.predicted.cpuUs) <= 0) wrong.push(`${nameOf(a)} and ${nameOf(b)}`);
    }
  }
  return { wrong, ties, compared };
}

const nameOf = ({ strategy, shards }: CellResult): string => (shards === null ? strategy : `${strategy}-${shards}`);

const LINE = { suite: 'plan', peer: null, ratio: null, spread: null, isa: native.isa, threads: 1, residency: 'none' } as const;

/** Cells by CPU, the cheapest first, as predicted and as measured, and how many pairs of strategies are the wrong way round. */
export function rankingLine(shape: string, results: readonly CellResult[]): Line {
  const order = (of: 'predicted' | 'measured'): string =>
    [...results]
      .sort((a, b) => a[of].cpuUs - b[of].cpuUs)
      .map(nameOf)
      .join(' < ');
  const { wrong, ties, compared } = pairs(results);
  const note = [
    `of ${compared} pairs at equal shards, ${ties} are ties within the spread`,
    ...(wrong.length > 0 ? [`wrong: ${wrong.join('; ')}`] : []),
    `\n  predicted ${order('predicted')}\n  measured  ${order('measured')}`,
  ].join(', ');
  return {
    ...LINE,
    case: `${shape}-ranking`,
    params: { shape },
    metric: 'pairs in the wrong order',
    unit: 'wrong',
    value: wrong.length,
    note,
  };
}

/** How many cells are within the limit, shape by shape and all together. */
export function summaryLine(results: readonly CellResult[]): Line {
  const shapes = [...new Set(results.map(({ shape }) => shape))];
  const ofShape = (shape: string): CellResult[] => results.filter((result) => result.shape === shape);
  const errors = (of: readonly CellResult[], key: 'cpuUs' | 'p50Us'): number[] =>
    of.map(({ predicted, measured }) => Math.abs(predicted[key] / measured[key] - 1));
  const within = (all: readonly number[]): string => `${all.filter((error) => error <= LIMIT).length} of ${all.length}`;
  const said = (key: 'cpuUs' | 'p50Us'): string => {
    const each = shapes.map((shape) => `${shape} ${within(errors(ofShape(shape), key))}`).join(', ');
    return `${within(errors(results, key))} (${each}), worst ${(100 * Math.max(...errors(results, key))).toFixed(0)} %`;
  };
  const right = shapes.filter((shape) => pairs(ofShape(shape)).wrong.length === 0);
  const note = [
    `worst error of CPU; within ${100 * LIMIT} %:`,
    `  CPU ${said('cpuUs')}`,
    `  P50 ${said('p50Us')}`,
    `  ranking by CPU right for ${right.length} of ${shapes.length} shapes`,
  ].join('\n');
  const value = 100 * Math.max(...errors(results, 'cpuUs'));
  return { ...LINE, case: 'summary', params: {}, metric: 'worst error of CPU', unit: '%', value, note };
}
