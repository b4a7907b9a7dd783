import { expect, test } from 'vitest';
import { colour, contrast, layerColour, onLayerColour, variables } from '../../../../src/lab/report/palette.js';
import { COMPUTE_LAYERS, EMBEDDED_LAYERS, LATENCY_LAYERS } from '../../../../src/observe/stacks.js';

test('contrast is that of the guidelines, on colours whose ratios are published', () => {
  expect(contrast('#ffffff', '#000000')).toBeCloseTo(21, 5);
  expect(contrast('#777777', '#ffffff')).toBeCloseTo(4.48, 2);
  expect(contrast('#ffffff', '#777777')).toBe(contrast('#777777', '#ffffff'));
});

test.each(['light', 'dark'] as const)('text on every layer can be read, on a page that is %s', (scheme) => {
  const declared = new Map([...variables(scheme).matchAll(/(--[\w-]+): (#\w{6});/g)].map(([, name, value]) => [`var(${name})`, value]));
  for (const layer of [...LATENCY_LAYERS, ...EMBEDDED_LAYERS, ...COMPUTE_LAYERS, 'one of a later version']) {
    expect(contrast(declared.get(layerColour(layer)) ?? '', declared.get(onLayerColour(layer)) ?? '')).toBeGreaterThanOrEqual(4.5);
  }
  for (const bytes of ['bytes', 'bytes-between'] as const) {
    expect(contrast(declared.get(colour(bytes)) ?? '', declared.get(colour(`on-${bytes}`)) ?? '')).toBeGreaterThanOrEqual(4.5);
  }
});
