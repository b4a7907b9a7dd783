// Tests of terabag serve with clients that others wrote, unmodified: npm run test:clients. They are installed outside the checkout first, into
// TERABAG_CLIENTS, one Python environment for each: tritonclient and kserve cannot be imported in one process. npm test skips what needs them unless
// TERABAG_CLIENTS says where they are.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { prepare, run } from './prepare.mjs';

const target = process.env.TERABAG_CLIENTS ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'terabag', 'clients');

/** perf_analyzer's last release that runs with glibc 2.36 is in the wheel of tritonclient 2.50.0; it is linked with CUDA's runtime. */
const ENVIRONMENTS = {
  triton: ['tritonclient[http,grpc]==2.73.0'],
  'triton-2.50': ['tritonclient[http,grpc]==2.50.0', 'nvidia-cuda-runtime-cu12==12.9.79'],
  kserve: ['kserve==0.21.0'],
  openapi: ['schemathesis==4.32.0', 'openapi-spec-validator==0.9.0'],
};

function attempt(command, args, options = {}) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'inherit'], ...options });
    child.on('error', (error) => {
      console.error(error.message);
      resolve(false);
    });
    child.on('exit', (code) => resolve(code === 0));
  });
}

/** What was installed is written down when it is whole: another run installs nothing, and an interrupted one does not count. */
async function environment(name, packages) {
  const directory = join(target, name);
  const record = join(directory, 'installed.txt');
  const wanted = `${packages.join('\n')}\n`;
  if (existsSync(record) && readFileSync(record, 'utf8') === wanted) return true;
  const python = join(directory, 'bin', 'python');
  // Compiling what is never imported would take most of the time.
  const pip = ['-m', 'pip', 'install', '--quiet', '--no-compile', '--disable-pip-version-check', ...packages];
  if (!(await attempt('python3', ['-m', 'venv', directory])) || !(await attempt(python, pip))) return false;
  writeFileSync(record, wanted);
  return true;
}

/** Debian's libb64, which perf_analyzer is linked with: the machine's, or one that is unpacked beside the environments. */
async function libb64() {
  const directory = join(target, 'libb64');
  const installed = spawnSync('ldconfig', ['-p'], { encoding: 'utf8' }).stdout ?? '';
  if (installed.includes('libb64.so.0d') || existsSync(join(directory, 'usr'))) return true;
  mkdirSync(directory, { recursive: true });
  if (!(await attempt('apt-get', ['download', 'libb64-0d'], { cwd: directory, stdio: 'ignore' }))) return false;
  const archive = readdirSync(directory).find((name) => name.endsWith('.deb'));
  return attempt('dpkg-deb', ['-x', archive, '.'], { cwd: directory });
}

prepare();
mkdirSync(target, { recursive: true });
const installations = Object.entries(ENVIRONMENTS).map(async ([name, packages]) => [name, await environment(name, packages)]);
const missing = (await Promise.all([...installations, libb64().then((there) => ['libb64', there])])).filter(([, there]) => !there);
if (missing.length > 0) {
  console.error(`could not be installed into ${target}: ${missing.map(([name]) => name).join(', ')}`);
  console.error('  needed: python3 with venv (Debian: python3-venv), PyPI, and libb64 (Debian: libb64-0d)');
  process.exit(1);
}
process.env.TERABAG_CLIENTS = target;
run('npx', 'vitest', 'run', 'test/integration/serve/clients', 'test/integration/serve/openapi', ...process.argv.slice(2));
