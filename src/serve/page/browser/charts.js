import { byId, each, el, setAttribute, setText, svg } from './dom.js';
import { shownCount, shownMs, shownShare, shownUs } from './format.js';

/** @import { ModelSnapshot, StackSnapshot } from '../snapshot.js' */

/** Snapshots that are kept for the lines, one a second. */
const HISTORY = 120;
/** The width of a line, until there are more. */
const LEAST_HISTORY = 30;
/** @type {Map<string, number[]>} */
const histories = new Map();
let historyOf = '';

/** @param {ModelSnapshot} model */
export function drawTiles(model) {
  const key = `${model.name}:${model.version}`;
  if (key !== historyOf) histories.clear();
  historyOf = key;
  const { rates, latency } = model;
  const share = rates.requests > 0 ? rates.errors / rates.requests : 0;
  const p = (/** @type {'p50' | 'p95' | 'p99'} */ name) => ({
    name: `${name.toUpperCase()} latency`,
    value: latency?.[name] ?? 0,
    text: shownMs(latency?.[name]),
    note: '',
  });
  const tiles = [
    { name: 'Requests', value: rates.requests, text: shownCount(rates.requests), note: 'a second' },
    {
      name: 'Errors',
      value: rates.errors,
      text: shownCount(rates.errors),
      note: rates.errors > 0 ? `a second, ${shownShare(share)}` : 'a second',
      bad: rates.errors > 0,
    },
    { name: 'Items', value: rates.items, text: shownCount(rates.items), note: 'a second' },
    ...[p('p50'), p('p95'), p('p99')],
    {
      name: 'In flight',
      value: model.inFlight,
      text: shownCount(model.inFlight),
      note: `of ${shownCount(model.concurrencyLimit)} at most`,
    },
  ];
  each(
    byId('tiles'),
    tiles,
    ({ name }) => name,
    ({ name }) => el('li', {}, el('span', {}, name), el('strong'), el('small'), line()),
    (tile, { name, value, text, note, bad = false }) => {
      const history = histories.get(name) ?? [];
      histories.set(name, [...history, value].slice(-HISTORY));
      const [, strong, small, chart] = /** @type {[Element, Element, Element, Element]} */ (/** @type {unknown} */ ([...tile.children]));
      setText(strong, text);
      setText(small, note);
      setAttribute(tile, 'data-bad', String(bad));
      updateLine(chart, histories.get(name) ?? []);
    },
  );
}

const line = () =>
  svg(
    'svg',
    { viewBox: '0 0 100 24', preserveAspectRatio: 'none', class: 'line', 'aria-hidden': 'true' },
    svg('path', { class: 'area' }),
    svg('path', { class: 'stroke' }),
  );

/** @param {Element} chart @param {readonly number[]} values */
function updateLine(chart, values) {
  const most = Math.max(...values, 1e-9);
  const step = 100 / (Math.max(LEAST_HISTORY, values.length) - 1);
  const xOf = (/** @type {number} */ at) => (100 - (values.length - 1 - at) * step).toFixed(2);
  const points = values.map((value, at) => `${xOf(at)} ${(23 - (21 * value) / most).toFixed(2)}`);
  const first = xOf(0);
  setAttribute(/** @type {Element} */ (chart.children[0]), 'd', points.length < 2 ? '' : `M${points.join('L')}L100 24L${first} 24z`);
  setAttribute(/** @type {Element} */ (chart.children[1]), 'd', points.length < 2 ? '' : `M${points.join('L')}`);
}

/** @param {ModelSnapshot} model @param {(layer: string) => string} titleOf */
export function drawStages({ traced, shards }, titleOf) {
  const box = byId('stages');
  if (traced === null) {
    setText(byId('stages-note'), '');
    if (box.firstElementChild?.className !== 'empty')
      box.replaceChildren(el('p', { class: 'empty' }, 'No request was traced yet: they are while this page is open.'));
    return;
  }
  if (box.firstElementChild?.className === 'empty' || box.childElementCount === 0)
    box.replaceChildren(
      ...[0, 1].map(() => el('div', { class: 'stack' }, el('h3'), el('div', { class: 'bar', role: 'img' }), el('ul', { class: 'layers' }))),
    );
  setText(byId('stages-note'), `means of ${shownCount(traced.requests)} traced requests`);
  const [whole, embedded] = /** @type {[HTMLElement, HTMLElement]} */ (/** @type {unknown} */ ([...box.children]));
  drawStack(whole, `The request: ${shownUs(traced.latency.totalUs)}`, traced.latency, titleOf);
  const isSharded = shards.some(({ main }) => !main);
  const last = Object.entries(traced.bounding).sort(([, a], [, b]) => b - a)[0];
  const often = last === undefined || !isSharded ? '' : `; most often ${last[0]} answers last (${shownShare(last[1])})`;
  drawStack(
    embedded,
    `${isSharded ? 'Its wait for the last shard' : 'Pooling'}: ${shownUs(traced.embedded.totalUs)}${often}`,
    traced.embedded,
    titleOf,
  );
}

/** @param {Element} box @param {string} title @param {StackSnapshot} stack @param {(layer: string) => string} titleOf */
function drawStack(box, title, { totalUs, layers }, titleOf) {
  const [heading, bar, list] = /** @type {[Element, Element, Element]} */ (/** @type {unknown} */ ([...box.children]));
  setText(heading, title);
  const shown = Object.entries(layers)
    .map(([layer, us]) => ({ layer, us, share: totalUs > 0 ? us / totalUs : 0 }))
    .filter(({ share }) => share >= 0.001);
  setAttribute(bar, 'aria-label', shown.map(({ layer, share }) => `${titleOf(layer)} ${shownShare(share)}`).join(', '));
  each(
    bar,
    shown,
    ({ layer }) => layer,
    ({ layer }) => {
      const part = el('i');
      part.style.background = `var(--layer-${layer})`;
      return part;
    },
    (part, { layer, us, share }) => {
      /** @type {HTMLElement} */ (part).style.width = `${share * 100}%`;
      setAttribute(part, 'title', `${titleOf(layer)}, ${shownUs(us)}`);
    },
  );
  each(
    list,
    [...shown].sort((a, b) => b.us - a.us).filter(({ share }) => share >= 0.01),
    ({ layer }) => layer,
    ({ layer }) => {
      const swatch = el('i', { class: 'swatch' });
      swatch.style.background = `var(--layer-${layer})`;
      return el('li', {}, swatch, el('span', {}, titleOf(layer)), el('b'), el('small'));
    },
    (item, { us, share }) => {
      setText(/** @type {Element} */ (item.children[2]), shownUs(us));
      setText(/** @type {Element} */ (item.children[3]), shownShare(share));
    },
  );
}
