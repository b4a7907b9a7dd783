import { TerabagError } from '../../errors.js';
import type { PlainFormat } from '../../model/formats.js';
import { drm1Shape, drm2Shape, drm3Shape } from './drm-shapes.js';
import { type ModelShape, mapTables, scaleRows } from './model-shape.js';
import { dcnShape, dienShape, dinShape, multiTaskShape, ncfShape, rmcShape, wideAndDeepShape } from './open-shapes.js';

const SHAPES = {
  drm1: drm1Shape,
  drm2: drm2Shape,
  drm3: drm3Shape,
  rmc1: () => rmcShape('rmc1'),
  rmc2: () => rmcShape('rmc2'),
  rmc3: () => rmcShape('rmc3'),
  ncf: ncfShape,
  'wide-and-deep': wideAndDeepShape,
  'multi-task-wide-and-deep': multiTaskShape,
  din: dinShape,
  dien: dienShape,
  'mlperf-dcnv2': () => dcnShape(),
} as const;

export type ShapeName = keyof typeof SHAPES;
export const SHAPE_NAMES = Object.keys(SHAPES) as ShapeName[];
export const isShapeName = (name: string): name is ShapeName => Object.hasOwn(SHAPES, name);

/** The named model with `scale` times its rows, more than 0 and at most 1; docs/workloads.md says what of it is published. */
export function shapeByName(
  name: string,
  scale: number,
  { seed, format }: { readonly seed?: number; readonly format?: PlainFormat } = {},
): ModelShape {
  if (!isShapeName(name))
    throw new TerabagError('invalid_argument', `no such model shape: ${name}; there are ${SHAPE_NAMES.join(', ')}`, { name });
  if (!(scale > 0 && scale <= 1))
    throw new TerabagError('invalid_argument', `scale has to be more than 0 and at most 1: ${scale}`, { scale });
  const scaled = scaleRows(SHAPES[name](), scale);
  const seeded = seed === undefined ? scaled : { ...scaled, seed };
  return format === undefined ? seeded : mapTables(seeded, (table) => ({ ...table, format }));
}
