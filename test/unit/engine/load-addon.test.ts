import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { loadAddon } from '../../../src/engine/load-addon.js';
import { TerabagError } from '../../../src/errors.js';

const built = process.env['TERABAG_ADDON'] ?? fileURLToPath(new URL('../../../native/build/Release/terabag.node', import.meta.url));
let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'terabag-load-'));
});
afterEach(() => rmSync(root, { recursive: true }));

function put(path: string, content?: string): string {
  const whole = join(root, path);
  mkdirSync(dirname(whole), { recursive: true });
  if (content === undefined) copyFileSync(built, whole);
  else writeFileSync(whole, content);
  return whole;
}

function refusal(named?: string): TerabagError {
  try {
    loadAddon('terabag', named, root);
  } catch (error) {
    if (error instanceof TerabagError) return error;
  }
  throw new Error('it loads');
}

const prebuilt =
  process.platform === 'linux' ? `prebuilds/linux-${process.arch}.node` : `prebuilds/${process.platform}-${process.arch}.node`;

describe('the addon that is loaded', () => {
  test('is the one built here, and the prebuilt one where that is missing or does not load', () => {
    put(prebuilt);
    expect(loadAddon('terabag', undefined, root)).toHaveProperty('SparseEngine');
    put('native/build/Release/terabag.node', 'no addon');
    expect(loadAddon('terabag', undefined, root)).toHaveProperty('SparseEngine');
    rmSync(join(root, 'prebuilds'), { recursive: true });
    expect(refusal().message).toMatch(/native\/build\/Release\/terabag.node: .*(invalid ELF|file too short|not a mach-o)/);
  });

  test('has no switch of emulated hosts', () => {
    put(prebuilt);
    expect(loadAddon('terabag', undefined, root)).not.toHaveProperty('HostNetwork');
  });
});

describe('an addon that cannot be loaded', () => {
  test('tells every attempt and the command that builds it', () => {
    const { code, message } = refusal(join(root, 'elsewhere.node'));
    expect(code).toBe('native_addon');
    for (const path of ['elsewhere.node', 'native/build/Release/terabag.node', prebuilt])
      expect(message).toContain(`${join(root, path)}: not there`);
    expect(message).toContain('none prebuilt for this platform');
    expect(message).toContain(`node ${join(root, 'scripts/build-addon.mjs')}`);
  });

  test('is called damaged or of another platform when it is no library', () => {
    put(prebuilt, 'no addon');
    expect(refusal().message).toMatch(/damaged or for another platform/);
  });

  test('of emulated hosts has no prebuilt one', () => {
    put(prebuilt);
    expect(() => loadAddon('terabag_lab', undefined, root)).toThrow(/terabag_lab cannot be loaded/);
  });
});
