import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { kernelFingerprint, poolAlike } from '../../src/engine/kernels.js';
import { native } from '../../src/engine/native.js';
import { availableKernels } from './jobs.js';

const ADDON = fileURLToPath(new URL('../../native/build/Release/terabag.node', import.meta.url));

function fingerprintsOf(isa: string): { readonly pooling: string; readonly dense: string } {
  const script = 'process.stdout.write(JSON.stringify(require(process.argv[1]).fingerprints()))';
  return JSON.parse(execFileSync(process.execPath, ['-e', script, ADDON], { env: { ...process.env, TERABAG_ISA: isa }, encoding: 'utf8' }));
}

const all = new Map(availableKernels.map((isa) => [isa, fingerprintsOf(isa)]));

test('every process says the same of the same kernels', () => {
  for (const [isa, fingerprints] of all) expect(fingerprintsOf(isa)).toEqual(fingerprints);
  expect(native.fingerprints()).toEqual(all.get(native.isa));
  expect(kernelFingerprint()).toBe(`${native.isa}:${all.get(native.isa)?.pooling}`);
});

test('vector kernels pool alike on every instruction set; scalar ones, which do not fuse, are told apart', () => {
  const vectors = availableKernels.filter((isa) => isa !== 'scalar').map((isa) => `${isa}:${all.get(isa)?.pooling}`);
  for (const one of vectors) {
    for (const other of vectors) expect(poolAlike(one, other), `${one} ${other}`).toBe(true);
    expect(poolAlike(one, `scalar:${all.get('scalar')?.pooling}`)).toBe(false);
  }
});
