import { isAbsolute, join, normalize, sep } from 'node:path';
import { badCheckpoint } from './checkpoint.js';

/** The path of a file that a checkpoint names; one outside of it is refused. */
export function insideCheckpoint(directory: string, file: string): string {
  const clean = normalize(file);
  if (isAbsolute(clean) || clean.split(sep)[0] === '..' || file.includes('\0'))
    throw badCheckpoint(directory, `a file that it names lies outside of it: ${JSON.stringify(file.slice(0, 200))}`);
  return join(directory, clean);
}
