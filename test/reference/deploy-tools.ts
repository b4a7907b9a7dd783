import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** Where scripts/ci-deploy-tools.sh puts them. */
const DIR = process.env['TERABAG_DEPLOY_TOOLS'] ?? join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'terabag-deploy-tools');

/** Path of a tool, from there or else from PATH; null, and a word about it, where it is not. */
export function toolPath(name: string, what: string, ...places: readonly string[]): string | null {
  const found = [...places.map((place) => join(DIR, place, name)), '']
    .map((path) => (path === '' ? whichOf(name) : path))
    .find((path) => path !== null && existsSync(path));
  if (found === undefined)
    console.warn(`${what} are skipped: there is no ${name} in PATH or ${DIR} (scripts/ci-deploy-tools.sh installs it)`);
  return found ?? null;
}

function whichOf(name: string): string | null {
  const { status, stdout } = spawnSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' });
  return status === 0 ? stdout.trim() : null;
}

export interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export function run(program: string, args: readonly string[], input?: string): Ran {
  const { status, stdout, stderr } = spawnSync(program, args, {
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
    ...(input !== undefined && { input }),
  });
  return { status, stdout, stderr };
}
