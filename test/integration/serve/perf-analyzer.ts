import { execFile } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { ClientTensor } from '../../reference/infer-body.js';

/** What perf_analyzer found at one concurrency or request rate. */
export interface LoadResult {
  /** Concurrent requests, or requests a second that were asked for. */
  readonly load: number;
  readonly perSecond: number;
  readonly p50Us: number;
  readonly p99Us: number;
}

/** perf_analyzer reads a number without a decimal point as an integer, which it refuses for FP32. */
const decimal = (value: number | bigint): string => (Number.isInteger(value) ? `${value}.0` : String(value));

/** Its file of input data: requests of ragged tensors, which it sends one after the other. */
export function inputData(requests: readonly (readonly ClientTensor[])[]): string {
  const tensor = ({ name, datatype, shape, values }: ClientTensor): string =>
    `${JSON.stringify(name)}: {"content": [${values.map(datatype === 'FP32' ? decimal : String).join(', ')}], "shape": [${shape.join(', ')}]}`;
  return `{"data": [\n${requests.map((tensors) => `{${tensors.map(tensor).join(', ')}}`).join(',\n')}\n]}\n`;
}

/** Its libraries lie beside it in the environment: CUDA's runtime, and Debian's libb64 where the machine has none. */
export async function perfAnalyzer(clients: string, args: readonly string[]): Promise<string> {
  const environment = join(clients, 'triton-2.50');
  const cuda = join('site-packages', 'nvidia', 'cuda_runtime', 'lib');
  const libraries = [
    ...directoriesIn(join(environment, 'lib')).map((python) => join(python, cuda)),
    ...directoriesIn(join(clients, 'libb64', 'usr', 'lib')),
  ];
  const { stdout } = await promisify(execFile)(join(environment, 'bin', 'perf_analyzer'), args, {
    timeout: 110_000,
    maxBuffer: 2 ** 24,
    env: { ...process.env, LD_LIBRARY_PATH: libraries.join(':') },
  });
  return stdout;
}

const directoriesIn = (directory: string): string[] =>
  existsSync(directory) ? readdirSync(directory).map((name) => join(directory, name)) : [];

/** The lines of its report, a CSV file. */
export function loadResults(file: string): LoadResult[] {
  if (!existsSync(file)) return [];
  const [head = [], ...lines] = readFileSync(file, 'utf8')
    .trim()
    .split('\n')
    .map((line) => line.split(','));
  const column = (line: readonly string[], name: RegExp): number => Number(line[head.findIndex((title) => name.test(title))]);
  return lines.map((line) => ({
    load: column(line, /^(Concurrency|Request Rate)$/),
    perSecond: column(line, /^Inferences\/Second$/),
    p50Us: column(line, /^p50 latency$/),
    p99Us: column(line, /^p99 latency$/),
  }));
}
