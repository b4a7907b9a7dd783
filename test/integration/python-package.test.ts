import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

/** The interpreter of an environment with torch, safetensors and pytest; TorchRec and onnx where they are. */
const PYTHON = process.env['TERABAG_PYTHON'] ?? 'python3';
const TESTS = fileURLToPath(new URL('../../python', import.meta.url));

const found = spawnSync(PYTHON, ['-c', 'import pytest, safetensors, torch']).status === 0;
if (!found)
  console.warn(`tests of the Python package are skipped: ${PYTHON} has no torch, safetensors or pytest; TERABAG_PYTHON names another`);

test.skipIf(!found)('the tests of the Python package pass', { timeout: 900_000 }, () => {
  const { status, stdout } = spawnSync(PYTHON, ['-m', 'pytest', '-q', '--no-header', '-p', 'no:cacheprovider'], {
    cwd: TESTS,
    encoding: 'utf8',
  });
  expect(status, stdout).toBe(0);
});
