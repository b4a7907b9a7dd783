import { writeFile } from 'node:fs/promises';
import { availableParallelism, cpus } from 'node:os';
import Table from 'cli-table3';
import type { Result, Setting } from './stage.js';

const seenOf = ({ seen, failures }: Result): string =>
  [...failures.map((failure) => `NOT: ${failure}`), ...(seen === '' ? [] : [seen])].join('; ');

export function printTable(results: readonly Result[]): void {
  const table = new Table({
    head: ['case', 'required', 'seen', 'verdict'],
    colWidths: [22, 52, 62, 9],
    wordWrap: true,
    style: { head: [], border: [] },
  });
  for (const result of results) table.push([result.name, result.required, seenOf(result), result.verdict]);
  console.log(table.toString());
}

/** What the figures were seen on. */
const machine = (): string => `${availableParallelism()} cores, ${cpus()[0]?.model ?? 'unknown CPU'}, Node.js ${process.version}`;

const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll('\n', ' ');

export function markdownOf(results: readonly Result[], { seed, long, qps, capacity }: Setting): string {
  const lines = results.map((result) => {
    const { name, does, required, verdict } = result;
    return `| ${[name, does, required, seenOf(result), verdict].map(cell).join(' | ')} |`;
  });
  const command = `npm run chaos -- --seed ${seed}${long ? ' --long' : ''}`;
  return [
    `\`${command}\` on ${machine()}; ${Math.round(qps)} requests a second of at most ${Math.round(capacity)}.`,
    '',
    '| case | what is done | required | seen | verdict |',
    '| --- | --- | --- | --- | --- |',
    ...lines,
    '',
  ].join('\n');
}

/** PATH.json and PATH.md. */
export async function writeResults(path: string, results: readonly Result[], setting: Setting): Promise<void> {
  const base = path.replace(/\.(json|md)$/, '');
  const { seed, long, qps, capacity } = setting;
  await writeFile(`${base}.json`, `${JSON.stringify({ seed, long, qps, capacity, machine: machine(), results }, null, 2)}\n`);
  await writeFile(`${base}.md`, markdownOf(results, setting));
}
