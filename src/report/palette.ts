/**
 * Colours by meaning, as CSS variables: the page gives each a value for light and for dark, and charts only name them. Hues are from Paul Tol's
 * schemes for colour-blind readers; in every stack, neighbours also differ in lightness.
 */

interface Colour {
  readonly light: string;
  readonly dark: string;
}

/** Layers of all three stacks, from the bottom up; the names are those of src/trace/stacks.ts. */
const LAYERS: Readonly<Record<string, Colour & { readonly title: string }>> = {
  dense: { title: 'dense layers', light: '#3b3a9c', dark: '#7d7ff0' },
  interaction: { title: 'interaction', light: '#88ccee', dark: '#a9dcf5' },
  embedded: { title: 'embedded portion', light: '#117733', dark: '#35a45c' },
  network: { title: 'network', light: '#ddcc77', dark: '#e3d48a' },
  sparse: { title: 'sparse operators', light: '#2f9e8f', dark: '#4dbdac' },
  serialization: { title: 'RPC serialization', light: '#cc6677', dark: '#e08795' },
  service: { title: 'RPC service', light: '#882255', dark: '#b8588c' },
  queueing: { title: 'queueing', light: '#aa4499', dark: '#c873ba' },
  overhead: { title: 'net overhead', light: '#8a8f98', dark: '#8f959f' },
  collection: { title: 'garbage collection', light: '#ee7733', dark: '#f59a63' },
  eventLoop: { title: 'event-loop delay', light: '#999933', dark: '#bdbd5a' },
  other: { title: 'other, on main', light: '#565c66', dark: '#6b727d' },
  unattributed: { title: 'unattributed', light: '#cfd3d9', dark: '#c9cdd4' },
};
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
  'on-bytes': { light: '#ffffff', dark: '#0b1116' },
  lookups: { light: '#ee7733', dark: '#f59a63' },
};

export type Meaning = 'ink' | 'muted' | 'rule' | 'surface' | 'bytes' | 'bytes-between' | 'bytes-rest' | 'on-bytes' | 'lookups';
export const colour = (meaning: Meaning): string => `var(--${meaning})`;

export const layerColour = (layer: string): string => `var(--layer-${Object.hasOwn(LAYERS, layer) ? layer : 'unknown'})`;
export const layerTitle = (layer: string): string => (Object.hasOwn(LAYERS, layer) ? (LAYERS[layer]?.title ?? layer) : layer);
export const lineColour = (position: number): string => `var(--line-${position % LINES.length})`;

/** Of the given layers, each once, from the bottom of a stack up; unknown ones last. */
export function layersInOrder(layers: Iterable<string>): string[] {
  const known = Object.keys(LAYERS);
  const rank = (layer: string): number => (Object.hasOwn(LAYERS, layer) ? known.indexOf(layer) : known.length);
  return [...new Set(layers)].sort((a, b) => rank(a) - rank(b));
}

/** Declarations of all variables for one of the two. */
export function variables(scheme: keyof Colour): string {
  const named: (readonly [string, Colour])[] = [
    ...Object.entries(MEANINGS),
    ...Object.entries(LAYERS).map(([layer, colours]) => [`layer-${layer}`, colours] as const),
    ['layer-unknown', UNKNOWN],
    ...LINES.map((colours, n) => [`line-${n}`, colours] as const),
  ];
  return named.map(([name, colours]) => `--${name}: ${colours[scheme]};`).join(' ');
}
