import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { TerabagError } from '../errors.js';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..', '..');

/** Alpine's C library is another one than glibc, and says no version of glibc in the process report. */
function isMusl(): boolean {
  // Looks up the names of all peers of open sockets otherwise.
  if (process.report) Object.assign(process.report, { excludeNetwork: true });
  const report = process.report?.getReport() as { readonly header: { readonly glibcVersionRuntime?: string } } | undefined;
  return process.platform === 'linux' && report?.header.glibcVersionRuntime === undefined;
}

/** What the messages of dynamic loaders mean to somebody who has installed a package. */
const CAUSES: readonly (readonly [RegExp, string])[] = [
  [/GLIBC(XX)?_[\d.]+' not found/, 'the C or C++ library of this machine is older than the addon needs: prebuilt ones need glibc 2.28'],
  [/ld-musl|symbol not found|__[a-z]+_chk/, 'the addon was built for another C library (glibc or musl)'],
  [
    /invalid ELF|wrong ELF|wrong architecture|incompatible architecture|not a mach-o|file too short/,
    'the file is damaged or for another platform, as after copying node_modules from another machine: install again',
  ],
];

function likelyCause(attempts: readonly Attempt[]): string {
  const failed = attempts.filter(({ missing }) => !missing);
  if (failed.length === 0) return 'there is no addon: the package has none prebuilt for this platform, and none was built here';
  for (const [pattern, cause] of CAUSES) if (failed.some(({ message }) => pattern.test(message))) return cause;
  return 'the addon that is there does not load';
}

interface Attempt {
  readonly path: string;
  readonly message: string;
  readonly missing: boolean;
}

/**
 * Loads an addon: the one that is named (else null), then that which was built here, then the prebuilt one for this platform and C library, of
 * which there are some of 'terabag' only. Throws `native_addon` with what was tried, the likely cause and the command that helps.
 */
export function loadAddon<T>(name: 'terabag' | 'terabag_lab', named?: string, root = ROOT): T {
  const prebuilt = () => join(root, 'prebuilds', `${process.platform}-${process.arch}${isMusl() ? '-musl' : ''}.node`);
  const candidates = [
    () => named,
    () => join(root, 'native', 'build', 'Release', `${name}.node`),
    () => (name === 'terabag' ? prebuilt() : undefined),
  ];
  const attempts: Attempt[] = [];
  const require = createRequire(import.meta.url);
  for (const candidate of candidates) {
    const path = candidate();
    if (path === undefined) continue;
    if (!existsSync(path)) {
      attempts.push({ path, message: 'not there', missing: true });
      continue;
    }
    try {
      return require(path) as T;
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      if (message.startsWith('TERABAG_')) throw new TerabagError('native_addon', message);
      attempts.push({ path, message, missing: false });
    }
  }
  throw new TerabagError(
    'native_addon',
    `the addon ${name} cannot be loaded on ${process.platform}-${process.arch}: ${likelyCause(attempts)}. Build it with: node ${join(root, 'scripts', 'build-addon.mjs')} (a C++20 compiler and cmake are needed). Tried:\n${attempts.map(({ path, message }) => `  ${path}: ${message}`).join('\n')}`,
  );
}
