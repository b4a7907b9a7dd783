import { chmodSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { curveKeyPair } from 'zeromq';

interface KeyPair {
  readonly publicKey: string;
  readonly secretKey: string;
}

/** Writes beside the path, then renames: whoever reads it anew finds the old or the new. */
function replace(path: string, text: string, mode: number): void {
  writeFileSync(`${path}.new`, text, { mode });
  chmodSync(`${path}.new`, mode);
  renameSync(`${path}.new`, path);
}

/** Key files as docs/operations.md has them, made of keys of libzmq and not by the code under test. */
export class KeyFiles {
  constructor(private readonly dir: string) {}

  pair(): KeyPair {
    return curveKeyPair();
  }

  /** Puts a pair under a name, in place of one that is there. */
  put(name: string, { publicKey, secretKey }: KeyPair): string {
    const file = join(this.dir, `${name}.key`);
    replace(file, `public ${publicKey}\nsecret ${secretKey}\n`, 0o600);
    return file;
  }

  make(name: string): { readonly file: string; readonly publicKey: string } {
    const pair = this.pair();
    return { file: this.put(name, pair), publicKey: pair.publicKey };
  }

  /** Public keys, one a line. */
  list(name: string, publicKeys: readonly string[]): string {
    const file = join(this.dir, name);
    replace(file, `${publicKeys.join('\n')}\n`, 0o644);
    return file;
  }
}
