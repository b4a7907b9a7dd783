import { spawnSync } from 'node:child_process';

/** Of Prometheus; Debian's package of that name has it. */
export const hasPromtool = spawnSync('promtool', ['--version']).error === undefined;
if (!hasPromtool) console.warn('promtool is not installed (Debian: apt-get install prometheus): what it checks is skipped');

/** What it finds wrong, or nothing; it ends with 3 where it only advises. */
export function promtool(args: readonly string[], input = ''): { readonly status: number | null; readonly output: string } {
  const { status, stdout, stderr } = spawnSync('promtool', args, { input, encoding: 'utf8' });
  return { status, output: stdout + stderr };
}
