import { TerabagError } from '../../errors.js';
import { shown } from '../../predictor/shown.js';
import { parseJson } from '../../tables/json.js';
import { readLines } from '../requests/lines.js';

/** 0 or 1; null where an item does not count. */
export type Label = 0 | 1 | null;

interface ParsedLine {
  readonly line: number;
  readonly value: unknown;
}

const isLabel = (value: unknown): value is Label => value === 0 || value === 1 || value === null;

/**
 * Labels of a file of requests, request after request. A line is a list with a label for each item of a request, or an object that has it as
 * "labels"; or every line is one item's label, whose requests say how many follow. A label is 0, 1, or null for an item that does not count.
 */
export class LabelReader {
  readonly #lines: AsyncGenerator<ParsedLine>;
  #peeked: ParsedLine | null = null;
  /** Whether a line has the labels of a request, or that of an item; null before the first. */
  #byRequest: boolean | null = null;

  constructor(private readonly path: string) {
    this.#lines = parsedLines(path);
  }

  /** Those of the next request. */
  async take(request: number, items: number): Promise<Label[]> {
    if (this.#byRequest === null) {
      this.#peeked = await this.#next(request);
      this.#byRequest = typeof this.#peeked.value === 'object' && this.#peeked.value !== null;
    }
    if (this.#byRequest) return this.#ofRequest(await this.#next(request), request, items);
    const labels: Label[] = [];
    while (labels.length < items) {
      const { line, value } = await this.#next(request);
      labels.push(this.#label(line, value));
    }
    return labels;
  }

  /** Refuses what is left when all requests have theirs. */
  async end(requests: number): Promise<void> {
    const next = await this.#lines.next();
    const left = this.#peeked ?? (next.done ? null : next.value);
    if (left === null) return;
    throw this.#refuse(left.line, `there are more labels than the ${requests} requests have items`);
  }

  /** Closes the file; also before its end. */
  async close(): Promise<void> {
    await this.#lines.return(undefined);
  }

  #ofRequest({ line, value }: ParsedLine, request: number, items: number): Label[] {
    const list: unknown = Array.isArray(value) ? value : (value as { labels?: unknown } | null)?.labels;
    if (!Array.isArray(list))
      throw this.#refuse(line, `labels of a request are a list, or an object with one as "labels": ${shown(value)}`);
    if (list.length !== items) throw this.#refuse(line, `request ${request} has ${items} items, and ${list.length} labels`);
    return list.map((label) => this.#label(line, label));
  }

  #label(line: number, value: unknown): Label {
    if (isLabel(value)) return value;
    throw this.#refuse(line, `a label is 0, 1 or null: ${shown(value)}`);
  }

  async #next(request: number): Promise<ParsedLine> {
    const peeked = this.#peeked;
    this.#peeked = null;
    if (peeked !== null) return peeked;
    const next = await this.#lines.next();
    if (!next.done) return next.value;
    throw new TerabagError('invalid_argument', `labels end before request ${request}: ${this.path}`, { path: this.path, request });
  }

  #refuse(line: number, what: string): TerabagError {
    return new TerabagError('invalid_argument', `${this.path}: line ${line}: ${what}`, { path: this.path, line });
  }
}

async function* parsedLines(path: string): AsyncGenerator<ParsedLine> {
  const refuse = (line: number, what: string): TerabagError =>
    new TerabagError('invalid_argument', `${path}: line ${line}: ${what}`, { path, line });
  for await (const read of readLines(path, { what: 'labels' })) {
    if ('error' in read) throw new TerabagError('invalid_argument', `${path}: ${read.error.message}`, { path, line: read.line });
    let value: unknown;
    try {
      value = parseJson(read.text);
    } catch (error) {
      throw refuse(read.line, error instanceof Error ? error.message : String(error));
    }
    yield { line: read.line, value };
  }
}
