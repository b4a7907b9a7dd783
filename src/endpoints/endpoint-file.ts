import { readFile, stat } from 'node:fs/promises';
import { TerabagError } from '../errors.js';
import { fileError } from '../tables/file-error.js';
import { parseEndpoint } from './endpoint.js';

const MAX_BYTES = 2 ** 20;

/**
 * The endpoints that a file lists, one a line; what stands behind a # is a comment. A file that may be half-written (it lists none, or its last line
 * has no end) is refused, and so is one with a line that is no endpoint.
 */
export async function readEndpointFile(path: string): Promise<string[]> {
  const text = await readText(path);
  const refused = (what: string, line: number): TerabagError =>
    new TerabagError('invalid_argument', `file of endpoints ${what}: ${path}:${line}`, { path, line });
  const lines = text.split('\n');
  const last = lines.pop();
  if (last !== '') throw refused('ends within a line, and is half-written', lines.length + 1);
  const listed: string[] = [];
  for (const [at, line] of lines.entries()) {
    const given = line
      .trim()
      .replace(/(^|\s)#.*$/, '')
      .trim();
    if (given === '') continue;
    const kind = parseEndpoint(given)?.kind ?? 'file';
    if (kind === 'file') throw refused(`has a line that is no tcp://host:port, ipc://path or srv://name (${given})`, at + 1);
    listed.push(given);
  }
  if (listed.length === 0) throw refused('lists none', lines.length + 1);
  return listed;
}

async function readText(path: string): Promise<string> {
  const refused = (what: string, details: Record<string, number> = {}): TerabagError =>
    new TerabagError('invalid_argument', `file of endpoints ${what}: ${path}`, { path, ...details });
  try {
    const found = await stat(path);
    // Reading a pipe would wait for whoever writes.
    if (!found.isFile()) throw refused('is no plain file');
    if (found.size > MAX_BYTES) throw refused(`has more than ${MAX_BYTES} bytes`, { bytes: found.size });
    return await readFile(path, 'utf8');
  } catch (error) {
    throw fileError(error, 'file of endpoints cannot be read', path, 'invalid_argument');
  }
}
