import { createHash, timingSafeEqual } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { TerabagError } from '../../errors.js';

/** How often the file is looked at. */
const PERIOD_MS = 1_000;

const digest = (token: string): Buffer => createHash('sha256').update(token).digest();

/** Bearer tokens (RFC 6750) of a file, one a line; # begins a comment. The file is read anew when it changes; one that cannot be read leaves what was. */
export class Tokens {
  #digests: readonly Buffer[] = [];
  #changed = '';
  readonly #timer: NodeJS.Timeout;

  private constructor(
    private readonly path: string,
    private readonly onProblem: (message: string) => void,
  ) {
    this.#timer = setInterval(() => void this.#readAnew(), PERIOD_MS).unref();
  }

  /** Rejects when the file cannot be read or has no token. */
  static async open(path: string, onProblem: (message: string) => void = () => undefined): Promise<Tokens> {
    const tokens = new Tokens(path, onProblem);
    try {
      await tokens.#read();
      return tokens;
    } catch (error) {
      tokens.close();
      throw error;
    }
  }

  async #read(): Promise<void> {
    const changed = await this.#whenChanged();
    const lines = (await readFile(this.path, 'utf8')).split('\n').map((line) => line.trim());
    const found = lines.filter((line) => line !== '' && !line.startsWith('#'));
    const bad = found.find((token) => !/^[\w.~+/-]+=*$/.test(token));
    if (bad !== undefined)
      throw new TerabagError('invalid_argument', `a line of ${this.path} is no bearer token: letters, digits and -._~+/ only`, {
        path: this.path,
      });
    if (found.length === 0) throw new TerabagError('invalid_argument', `${this.path} has no token: one a line`, { path: this.path });
    this.#digests = found.map(digest);
    this.#changed = changed;
  }

  async #whenChanged(): Promise<string> {
    const { mtimeMs, size, ino } = await stat(this.path).catch((error: unknown) => {
      throw TerabagError.from(error, 'invalid_argument');
    });
    return `${mtimeMs} ${size} ${ino}`;
  }

  async #readAnew(): Promise<void> {
    try {
      if ((await this.#whenChanged()) !== this.#changed) await this.#read();
    } catch (error) {
      this.onProblem(`tokens: ${(error as Error).message}`);
    }
  }

  /** Whether an Authorization header carries one of them; takes as long for any. */
  accepts(authorization: string | undefined): boolean {
    const [, token] = /^Bearer +(\S+)$/i.exec(authorization ?? '') ?? [];
    const given = digest(token ?? '');
    let known = false;
    for (const each of this.#digests) known = timingSafeEqual(each, given) || known;
    return known && token !== undefined;
  }

  close(): void {
    clearInterval(this.#timer);
  }
}
