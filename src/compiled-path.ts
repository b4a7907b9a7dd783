import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** The path of a program of this package, such as cli/main.js: the compiled one, also when this file runs from source. */
export function compiledPath(program: string): string {
  const beside = fileURLToPath(new URL(`./${program}`, import.meta.url));
  return existsSync(beside) ? beside : fileURLToPath(new URL(`../dist/${program}`, import.meta.url));
}
