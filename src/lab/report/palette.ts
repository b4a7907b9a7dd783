/** Colours by meaning, as CSS variables: the page gives each a value for light and for dark, and charts only name them. */
import { type Colour, LAYERS } from '../../observe/layer-colours.js';

const UNKNOWN: Colour = { light: '#000000', dark: '#ffffff' };

/** Lines of one chart, in their order, beside the reference line. */
const LINES: readonly Colour[] = [
  { light: '#0077bb', dark: '#4fb3ef' },
  { light: '#ee7733', dark: '#f59a63' },
  { light: '#009988', dark: '#35c4b3' },
  { light: '#aa3377', dark: '#de78b2' },
  { light: '#b59b1f', dark: '#d9c25a' },
  { light: '#66ccee', dark: '#a3e3f7' },
];

const MEANINGS: Readonly<Record<string, Colour>> = {
  ink: { light: '#1a1d21', dark: '#eceef1' },
  muted: { light: '#59606a', dark: '#a7adb7' },
  rule: { light: '#dfe2e6', dark: '#333840' },
  surface: { light: '#ffffff', dark: '#1a1d22' },
  page: { light: '#f5f6f8', dark: '#111317' },
  accent: { light: '#0060a0', dark: '#6cbcf5' },
  better: { light: '#4393c3', dark: '#3a8fc7' },
  worse: { light: '#f08a4b', dark: '#d9702f' },
  held: { light: '#00695c', dark: '#5fd0bf' },
  refuted: { light: '#a83c00', dark: '#ff9d66' },
  bytes: { light: '#0077bb', dark: '#3f9bd6' },
  'bytes-between': { light: '#4a9fd0', dark: '#2d7db3' },
  'bytes-rest': { light: '#b5d6ea', dark: '#27506b' },
  lookups: { light: '#ee7733', dark: '#f59a63' },
};

export type Meaning =
  | 'ink'
  | 'muted'
  | 'rule'
  | 'surface'
  | 'bytes'
  | 'bytes-between'
  | 'bytes-rest'
  | 'on-bytes'
  | 'on-bytes-between'
  | 'lookups';
export const colour = (meaning: Meaning): string => `var(--${meaning})`;

export const layerColour = (layer: string): string => `var(--layer-${Object.hasOwn(LAYERS, layer) ? layer : 'unknown'})`;
/** Colour of text on that colour. */
export const onLayerColour = (layer: string): string => layerColour(layer).replace('--', '--on-');
export const layerTitle = (layer: string): string => (Object.hasOwn(LAYERS, layer) ? (LAYERS[layer]?.title ?? layer) : layer);
export const lineColour = (position: number): string => `var(--line-${position % LINES.length})`;

/** Orders the given layers, each once, from the bottom of a stack up; unknown ones last. */
export function layersInOrder(layers: Iterable<string>): string[] {
  const known = Object.keys(LAYERS);
  const rank = (layer: string): number => (Object.hasOwn(LAYERS, layer) ? known.indexOf(layer) : known.length);
  return [...new Set(layers)].sort((a, b) => rank(a) - rank(b));
}

const DARK_TEXT = '#000000';
const LIGHT_TEXT = '#ffffff';

/** Luminance of a colour such as #3b3a9c relative to white, as the Web Content Accessibility Guidelines define it. */
function luminance(colour: string): number {
  const [red = 0, green = 0, blue = 0] = [1, 3, 5].map((at) => {
    const share = Number.parseInt(colour.slice(at, at + 2), 16) / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** By the same guidelines: from 1 to 21; text needs 4.5. */
export function contrast(one: string, other: string): number {
  const [darker = 0, lighter = 0] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (lighter + 0.05) / (darker + 0.05);
}

const textOn = (background: string): string =>
  contrast(background, DARK_TEXT) > contrast(background, LIGHT_TEXT) ? DARK_TEXT : LIGHT_TEXT;

/** Declarations of all variables for one of the two. */
export function variables(scheme: keyof Colour): string {
  const layers = Object.entries<Colour>({ ...LAYERS, unknown: UNKNOWN }).map(([layer, colours]) => [`layer-${layer}`, colours] as const);
  const named: (readonly [string, Colour])[] = [
    ...Object.entries(MEANINGS),
    ...layers,
    ...[...layers, ...Object.entries(MEANINGS).filter(([name]) => name.startsWith('bytes'))].map(
      ([name, { light, dark }]) => [`on-${name}`, { light: textOn(light), dark: textOn(dark) }] as const,
    ),
    ...LINES.map((colours, n) => [`line-${n}`, colours] as const),
  ];
  return named.map(([name, colours]) => `--${name}: ${colours[scheme]};`).join(' ');
}
