import { describe, expect, test } from 'vitest';
import { evaluateFindings } from '../../../../src/lab/characterise/findings.js';
import { SINGULAR } from '../../../../src/lab/characterise/setup.js';
import type { Ratio } from '../../../../src/lab/report/characterisation.js';
import { about, CAPACITY_8, LOAD_2, LOAD_8, NSBP_8, ONE, results } from './made-up-results.js';

type Given = ReturnType<typeof results>;
const finding = (id: string, given: Given) => {
  const found = evaluateFindings(given).find((each) => each.id === id);
  if (found === undefined) throw new Error(`no such finding: ${id}`);
  return found;
};

const PAPER_8 = { ...LOAD_8, rpc: 'paper' } as const;
const SLOW = { ...LOAD_8, shardCpuLimit: 0.25 };
const INT8 = { ...SINGULAR, rowFormat: 'int8' } as const;
const INT4_SHARDED = { ...LOAD_8, rowFormat: 'int4' } as const;

/** Per finding: results under which it holds, and under which it does not; and what its numbers have to show. */
const CASES: readonly { readonly id: string; readonly held: Given; readonly not: Given; readonly shows: RegExp }[] = [
  {
    id: 'p99-within-1-percent',
    held: results([
      { setup: LOAD_2, p99: about(1.3) },
      { setup: LOAD_8, p99: about(1.009) },
    ]),
    not: results([
      { setup: LOAD_2, p99: about(1.3) },
      { setup: LOAD_8, p99: about(1.011) },
    ]),
    shows: /load-balanced-8 over singular.*P99 1\.0(09|11) \(/,
  },
  {
    id: 'tail-overhead-below-median-overhead',
    held: results([
      { setup: LOAD_2, p50: about(1.3), p99: about(1.1) },
      { setup: LOAD_8, p50: about(1.2), p99: about(1.05) },
    ]),
    not: results([
      { setup: LOAD_2, p50: about(1.3), p99: about(1.1) },
      { setup: LOAD_8, p50: about(1.2), p99: about(1.4) },
    ]),
    shows: /of 2 sharded configurations/,
  },
  {
    id: 'steady-rate-shrinks-tail-overhead',
    held: results([
      { setup: LOAD_8, p99: about(1.4) },
      { setup: LOAD_8, kind: 'open-loop', p99: about(1.1) },
    ]),
    not: results([
      { setup: LOAD_8, p99: about(1.1) },
      { setup: LOAD_8, kind: 'open-loop', p99: about(1.4) },
    ]),
    shows: /1\.\d00 \(.* at 25 a second/,
  },
  {
    id: 'one-shard-is-worst',
    held: results([
      { setup: ONE, p50: about(1.6) },
      { setup: LOAD_2, p50: about(1.6) },
      { setup: LOAD_8, p50: about(1.2) },
    ]),
    not: results([
      { setup: ONE, p50: about(1.4) },
      { setup: LOAD_2, p50: about(1.6) },
      { setup: LOAD_8, p50: about(1.2) },
    ]),
    shows: /one-shard 1\.\d00 .*the fastest load-balanced-8 1\.200/,
  },
  {
    id: 'load-balanced-improves-with-shards',
    held: results([
      { setup: LOAD_2, p50: about(1.4) },
      { setup: LOAD_8, p50: about(1.2) },
    ]),
    not: results([
      { setup: LOAD_2, p50: about(1.2) },
      { setup: LOAD_8, p50: about(1.4) },
    ]),
    shows: /load-balanced-2 1\.\d00 .*load-balanced-8 1\.\d00/,
  },
  {
    id: 'dominating-table-gains-nothing',
    held: results(
      [
        { setup: LOAD_2, p50: about(1.2) },
        { setup: LOAD_8, p50: about(1.205) },
      ],
      { largestShare: 0.9 },
    ),
    not: results(
      [
        { setup: LOAD_2, p50: about(1.4) },
        { setup: LOAD_8, p50: about(1.2) },
      ],
      { largestShare: 0.9 },
    ),
    shows: /90\.0 % of the bytes/,
  },
  {
    id: 'one-large-batch-beats-singular',
    held: results([
      { setup: PAPER_8, p50: about(0.9) },
      { setup: LOAD_8, p50: about(1.1) },
    ]),
    not: results([
      { setup: PAPER_8, p50: about(1) },
      { setup: LOAD_8, p50: about(1.1) },
    ]),
    shows: /the fastest load-balanced-8-paper .*\(paper\)/,
  },
  {
    id: 'nsbp-costs-least-cpu',
    held: results([
      { setup: NSBP_8, cpu: about(1.3) },
      { setup: LOAD_8, cpu: about(1.5) },
      { setup: CAPACITY_8, cpu: about(1.305) },
    ]),
    not: results([
      { setup: NSBP_8, cpu: about(1.3) },
      { setup: LOAD_8, cpu: about(1.5) },
      { setup: CAPACITY_8, cpu: about(1.2) },
    ]),
    shows: /nsbp-8 1\.300/,
  },
  {
    id: 'slower-sparse-hosts-are-free',
    held: results([{ setup: SLOW, baseline: LOAD_8, p50: about(1.02), p99: about(1.2, 0.3) }]),
    not: results([{ setup: SLOW, baseline: LOAD_8, p50: about(1.02), p99: about(1.2) }]),
    shows: /0\.25 cores a shard: load-balanced-8-cpu0\.25 over load-balanced-8/,
  },
  {
    id: 'packed-rows-shrink-the-model',
    held: results([
      { setup: INT8, p50: about(0.9), p99: about(0.9) },
      { setup: INT4_SHARDED, baseline: LOAD_8, p50: about(1), p99: about(1) },
    ]),
    not: results([{ setup: INT8, p50: about(1.3), p99: about(1.3) }]),
    shows: /int8 3\.56 times smaller/,
  },
];

test('every finding has a case in both directions', () => {
  expect(
    evaluateFindings(results([]))
      .map(({ id }) => id)
      .sort(),
  ).toEqual(CASES.map(({ id }) => id).sort());
});

describe.each(CASES)('$id', ({ id, held, not, shows }) => {
  test('holds when the numbers say so', () => {
    expect(finding(id, held)).toMatchObject({ held: true, numbers: expect.stringMatching(shows) });
  });
  test('does not hold when they do not', () => {
    expect(finding(id, not)).toMatchObject({ held: false, numbers: expect.stringMatching(shows) });
  });
  test('is not measured without its experiment', () => {
    expect(finding(id, results([]))).toMatchObject({ held: null, numbers: expect.stringMatching(/^not measured: ./) });
  });
});

test('a difference inside the spread of the rounds decides nothing', () => {
  const wide = (median: number): Ratio => about(median, 0.3);
  const equal = results([
    { setup: ONE, p50: wide(1.4) },
    { setup: LOAD_2, p50: wide(1.3) },
    { setup: LOAD_8, p50: wide(1.2) },
  ]);
  for (const id of ['one-shard-is-worst', 'load-balanced-improves-with-shards']) expect(finding(id, equal).held).toBe(false);
});

test.each(CASES)('one round decides nothing, since it has no spread: $id', ({ id, held, not }) => {
  for (const given of [held, not]) {
    const once = { ...given, overheads: given.overheads.map((overhead) => ({ ...overhead, pairs: 1 })) };
    expect(finding(id, once)).toMatchObject({
      held: null,
      numbers: expect.stringMatching(/^not measured: one round has no spread.*held if/),
    });
  }
});

test('a model without a dominating table says nothing of one', () => {
  const { held, numbers } = finding('dominating-table-gains-nothing', results([{ setup: LOAD_2 }, { setup: LOAD_8 }]));
  expect([held, numbers]).toEqual([null, expect.stringMatching(/2\.0 % of the bytes/)]);
});

test('what was skipped says why', () => {
  const given = { ...results([]), skipped: [{ experiment: 'slow-hosts', reason: 'it needs root' }] };
  expect(finding('slower-sparse-hosts-are-free', given)).toMatchObject({ held: null, numbers: 'skipped: it needs root' });
});

test('neither hosts, batches nor formats count as strategies', () => {
  const given = results([
    { setup: LOAD_8, p99: about(1.2) },
    { setup: { ...LOAD_8, batchItems: 16, rpc: 'paper' }, p99: about(0.5) },
    { setup: { ...LOAD_8, rowFormat: 'int8' }, p99: about(0.5) },
    { setup: { ...LOAD_8, network: { delayMs: 0, loss: 0 } }, p99: about(0.5) },
  ]);
  expect(finding('p99-within-1-percent', given)).toMatchObject({ held: false, numbers: expect.stringMatching(/^load-balanced-8 over/) });
});
