import { realpath } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import type { Command } from 'commander';
import { replaces } from '../tables/atomic.js';

/** Files by the words of the command line that name them; those that were left out are undefined. */
type NamedFiles = Readonly<Record<string, string | undefined>>;

/**
 * Refuses, as wrong usage, a file that would be written twice, or in the place of one that is read: one result would overwrite the other, or the
 * input. A device or a pipe may stand for several: nothing is lost there.
 */
export async function refuseSameFile(command: Command, outputs: NamedFiles, inputs: NamedFiles = {}): Promise<void> {
  const taken = new Map<string, string>();
  for (const [name, path] of Object.entries(inputs)) if (path !== undefined && path !== '-') taken.set(await place(path), name);
  for (const [name, path] of Object.entries(outputs)) {
    if (path === undefined || !(await replaces(path))) continue;
    const at = await place(path);
    const other = taken.get(at);
    if (other !== undefined) command.error(`error: ${other} and ${name} have to be different files: ${path}`);
    taken.set(at, name);
  }
}

/** Refuses, as wrong usage, two options that name one file, which have to be of different data. */
export async function refuseOneFile(command: Command, inputs: NamedFiles): Promise<void> {
  const taken = new Map<string, string>();
  for (const [name, path] of Object.entries(inputs)) {
    if (path === undefined) continue;
    const at = await realpath(path).catch(() => resolve(path));
    const other = taken.get(at);
    if (other !== undefined) command.error(`error: ${other} and ${name} have to be different files: ${path}`);
    taken.set(at, name);
  }
}

/** As a rename sees it: what a link stands in counts, not what it leads to. */
async function place(path: string): Promise<string> {
  const full = resolve(path);
  return join(await realpath(dirname(full)).catch(() => dirname(full)), basename(full));
}
