// Checks what the machine has to have; no dependencies.
import { spawnSync } from 'node:child_process';

const runs = (command) => spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0;

/** What is missing, one line each, with the package to install. */
export function missing() {
  const lines = [];
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 19)) lines.push(`Node.js 20.19 or newer is needed, this is ${process.versions.node}`);
  if (!runs('c++') && !runs('g++') && !runs('clang++')) lines.push('a C++20 compiler is needed (Debian: apt-get install g++)');
  if (!runs('cmake')) lines.push('cmake is needed (Debian: apt-get install cmake)');
  if (!runs('make') && !runs('ninja')) lines.push('make or ninja is needed (Debian: apt-get install make)');
  return lines;
}
