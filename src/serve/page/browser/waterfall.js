import { byId, each, el, setAttribute, setText } from './dom.js';
import { counted, shownMs, shownTime, shownUs } from './format.js';

/** @import { ModelSnapshot, SlowRequest } from '../snapshot.js' */

const MOST_LISTED = 5;
/** The request that was picked; the slowest when it is gone. */
let picked = '';
/** The one that is drawn. */
let drawnRequest = '';

/** @param {ModelSnapshot} model @param {number} at @param {(layer: string) => string} titleOf */
export function drawSlowest({ slowest, traced }, at, titleOf) {
  const box = byId('slow');
  if (box.childElementCount === 0)
    box.append(el('div', { class: 'picks', role: 'group', 'aria-label': 'Requests' }), el('div', { class: 'waterfall' }));
  const [list, chart] = /** @type {[Element, Element]} */ (/** @type {unknown} */ ([...box.children]));
  if (slowest.length === 0) {
    list.replaceChildren();
    each(
      list,
      [],
      String,
      () => el('p'),
      () => undefined,
    );
    drawnRequest = '';
    chart.replaceChildren(el('p', { class: 'empty' }, traced === null ? 'No request was traced yet.' : 'None yet.'));
    return;
  }
  const listed = slowest.slice(0, MOST_LISTED);
  const chosen = listed.find(({ id }) => id === picked) ?? /** @type {SlowRequest} */ (listed[0]);
  each(
    list,
    listed,
    ({ id }) => id,
    ({ id }) => {
      const button = el('button', { type: 'button', class: 'pick' }, el('b'), el('span'));
      button.addEventListener('click', () => {
        picked = id;
        for (const other of list.children) setAttribute(other, 'aria-pressed', String(other === button));
        const request = listed.find((each) => each.id === id);
        if (request !== undefined) drawWaterfall(chart, request, titleOf);
      });
      return button;
    },
    (button, request) => {
      setAttribute(button, 'aria-pressed', String(request === chosen));
      setText(/** @type {Element} */ (button.children[0]), shownMs(request.ms));
      const what = request.error ?? counted(request.items, 'item');
      setText(/** @type {Element} */ (button.children[1]), `${what}, ${shownTime(Math.max(0, at - request.at))} ago`);
    },
  );
  drawWaterfall(chart, chosen, titleOf);
}

/** @param {Element} chart @param {SlowRequest} request @param {(layer: string) => string} titleOf */
function drawWaterfall(chart, request, titleOf) {
  if (drawnRequest === request.id) return;
  drawnRequest = request.id;
  const us = Math.max(1, request.ms * 1000);
  const axis = el('div', { class: 'lane axis', 'aria-hidden': 'true' }, el('span', { class: 'lane-name' }), el('div', { class: 'track' }));
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    const tick = el('span', { class: 'tick' }, shownUs(us * share));
    tick.style.left = `${share * 100}%`;
    axis.lastElementChild?.append(tick);
  }
  const lanes = request.lanes.map(({ name, spans }) => {
    const track = el('div', { class: 'track' });
    for (const { layer, what, fromUs, toUs } of spans) {
      const span = el('i', { title: `${what}, ${shownUs(toUs - fromUs)}` });
      span.style.left = `${(100 * fromUs) / us}%`;
      span.style.width = `${(100 * (toUs - fromUs)) / us}%`;
      span.style.background = `var(--layer-${layer})`;
      track.append(span);
    }
    return el('div', { class: 'lane' }, el('span', { class: 'lane-name', title: name }, name), track);
  });
  const layers = new Map();
  for (const { layer, fromUs, toUs } of request.lanes.flatMap(({ spans }) => spans))
    layers.set(layer, (layers.get(layer) ?? 0) + toUs - fromUs);
  const legend = el('ul', { class: 'legend' });
  for (const [layer] of [...layers].sort(([, a], [, b]) => b - a)) {
    const swatch = el('i', { class: 'swatch' });
    swatch.style.background = `var(--layer-${layer})`;
    legend.append(el('li', {}, swatch, titleOf(layer)));
  }
  const longest = request.lanes.slice(1).map(({ name, spans }) => ({ name, toUs: Math.max(0, ...spans.map(({ toUs }) => toUs)) }));
  longest.sort((a, b) => b.toUs - a.toUs);
  const last = longest[0] === undefined ? '' : `; ${longest[0].name} answered last, after ${shownUs(longest[0].toUs)}`;
  const summary = `${shownMs(request.ms)} for ${counted(request.items, 'item')}${request.error === null ? '' : `, ${request.error}`}${last}.`;
  chart.replaceChildren(el('p', { class: 'note' }, summary), axis, ...lanes, legend);
}
