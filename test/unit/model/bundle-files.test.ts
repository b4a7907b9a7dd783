import { join } from 'node:path';
import { expect, test } from 'vitest';
import { pathInside } from '../../../src/model/bundle-files.js';

test.each(['t.safetensors', 'tables/t', './t', 'a/../t', '..data/t', '...', 'a..b'])('%s lies inside a bundle', (file) => {
  expect(pathInside('/bundle', file)).toBe(join('/bundle', file));
});

test.each(['..', '../t', 'a/../../t', '/t', './../t'])('%s lies outside of every bundle', (file) => {
  expect(() => pathInside('/bundle', file)).toThrow(expect.objectContaining({ code: 'bad_model', details: { file } }));
});
