import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { TerabagError } from '../../errors.js';
import { type Characterisation, type Resume, readCharacterisation, writeCharacterisation } from '../report/characterisation.js';
import { evaluateFindings } from './findings.js';
import { addMeasured, type Measured } from './measured.js';

export const RESULTS_FILE = 'results.json';

/** The results in a directory, after every group of experiments whole and valid. */
export class ResultsFile {
  private constructor(
    private readonly path: string,
    private current: Characterisation & { readonly resume: Resume },
  ) {}

  /** What an earlier start left; null when there is nothing. Refuses results of another model or other options: they would be mixed. */
  static async find(dir: string, wanted: { readonly hash: string; readonly asked: Resume['asked'] }): Promise<ResultsFile | null> {
    const path = join(dir, RESULTS_FILE);
    if (!(await exists(path))) return null;
    const results = await readCharacterisation(path);
    const { resume } = results;
    const refuse = (what: string, there: unknown, now: unknown): never => {
      throw new TerabagError(
        'invalid_argument',
        `results are there already, with another ${what}: ${path} has ${String(there)}, now it is ${String(now)}; choose another directory, or remove the file`,
        { path, field: what },
      );
    };
    if (results.model.hash !== wanted.hash) refuse('model', results.model.hash.slice(0, 12), wanted.hash.slice(0, 12));
    if (resume === undefined) return refuse('program', 'none to go on with', 'characterise');
    for (const [option, value] of Object.entries(wanted.asked))
      if (resume.asked[option] !== value) refuse(option, resume.asked[option], value);
    return new ResultsFile(path, { ...results, resume });
  }

  static async create(dir: string, results: Characterisation & { readonly resume: Resume }): Promise<ResultsFile> {
    const file = new ResultsFile(join(dir, RESULTS_FILE), results);
    await file.#write();
    return file;
  }

  get results(): Characterisation & { readonly resume: Resume } {
    return this.current;
  }

  isFinished(group: string): boolean {
    return this.current.resume.finished.includes(group);
  }

  async finish(group: string, measured: Partial<Measured>): Promise<void> {
    const { resume } = this.current;
    this.current = { ...addMeasured(this.current, measured), endedAt: null, resume: { ...resume, finished: [...resume.finished, group] } };
    await this.#write();
  }

  /** All that was asked for is measured. */
  async end(): Promise<void> {
    this.current = { ...this.current, endedAt: new Date().toISOString() };
    await this.#write();
  }

  async #write(): Promise<void> {
    this.current = { ...this.current, findings: evaluateFindings(this.current) };
    await writeCharacterisation(this.path, this.current);
  }
}

const exists = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );
