/**
 * Colours of the layers of all stacks, the same in every chart of every page: hues are from Paul Tol's schemes for colour-blind readers, and neighbours in a
 * stack also differ in lightness.
 */
export interface Colour {
  readonly light: string;
  readonly dark: string;
}

/** From the bottom up; the names are those of stacks.ts. */
export const LAYERS: Readonly<Record<string, Colour & { readonly title: string }>> = {
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
