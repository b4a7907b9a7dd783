import { byId, each, el, healthIcon, setAttribute, setText } from './dom.js';
import { counted, shownBytes, shownCount } from './format.js';
import { treemap } from './treemap.js';

/** @import { ModelSnapshot, ShardSnapshot, TableSnapshot } from '../snapshot.js' */
/** @import { Box } from './treemap.js' */

/** Between shards, and around the tables of one. */
const GAP = 6;
const TITLE_HEIGHT = 22;
const CHIP_HEIGHT = 22;
const CHIP_WIDTH = 68;
/** A shard is drawn at least this large, of all: its name and health have to be read. */
const LEAST_SHARE = 0.06;
/** Shards that differ by less are drawn in the plan's order. */
const ALIKE = 1.25;
/** Replicas beyond are counted, not drawnMap one by one. */
const MOST_CHIPS = 6;
/** A table's name, and its size under that, need this much. */
const NAMED = { width: 44, height: 18 };
const SIZED = { width: 56, height: 34 };

/** Drawn anew only when one of these changes; the rest is updated. */
let drawnMap = '';
/** @type {ModelSnapshot | null} */
let shown = null;
let current = '';

/** @param {ModelSnapshot} model */
export function drawMap(model) {
  const map = byId('map');
  shown = model;
  const { shards, tables } = model;
  map.hidden = tables === null;
  byId('map-scale').hidden = tables === null;
  if (tables === null) {
    setText(byId('map-note'), '');
    setText(byId('map-tip'), 'This predictor does not tell where its tables lie.');
    return;
  }
  const bytes = shards.flatMap(({ held }) => held).reduce((sum, part) => sum + part.bytes, 0);
  const sparse = shards.filter(({ main }) => !main).length;
  const where = sparse === 0 ? 'all in this process' : `on ${counted(sparse, 'shard')}`;
  setText(byId('map-note'), `${counted(tables.length, 'table')}, ${shownBytes(bytes)}, ${where}; areas by bytes`);
  const width = map.clientWidth;
  const key = JSON.stringify([model.name, model.version, model.hash, model.planHash, width, shards.map((shard) => chipsOf(shard).length)]);
  if (key !== drawnMap) {
    drawnMap = key;
    lay(map, model, width);
  }
  const hottest = Math.max(1e-9, ...tables.map(({ lookups }) => lookups));
  for (const cell of map.querySelectorAll('.cell')) {
    const table = tables[Number(cell.getAttribute('data-table'))];
    if (table === undefined) continue;
    // Square roots: the eye would else see the hottest alone.
    /** @type {HTMLElement} */ (cell).style.setProperty('--heat', `${Math.round(100 * Math.sqrt(table.lookups / hottest))}%`);
    setAttribute(cell, 'aria-label', tableText(table, cell.getAttribute('data-place') ?? ''));
  }
  for (const shard of shards) updateShard(map, shard);
  showTip();
}

/** @param {HTMLElement} map @param {ModelSnapshot} model @param {number} width */
function lay(map, { shards, tables }, width) {
  const total = shards.flatMap(({ held }) => held).reduce((sum, part) => sum + part.bytes, 0);
  const bytesOf = (/** @type {ShardSnapshot} */ { held }) => held.reduce((sum, part) => sum + part.bytes, 0);
  const least = Math.min(LEAST_SHARE, 0.5 / Math.max(1, shards.length));
  const ordered = shards.map((shard) => ({ shard, weight: Math.max(bytesOf(shard), least * total, 1) }));
  const weights = ordered.map(({ weight }) => weight);
  // Those that are alike stay in the plan's order.
  if (Math.max(...weights) > ALIKE * Math.min(...weights)) ordered.sort((a, b) => b.weight - a.weight);
  const isNarrow = width < 560;
  const perShard = isNarrow ? 150 : 90;
  const height = Math.min(isNarrow ? 1100 : 620, Math.max(isNarrow ? 420 : 340, perShard * shards.length));
  map.style.height = `${height}px`;
  const boxes = treemap(
    ordered.map(({ weight }) => weight),
    { x: 0, y: 0, width: width + GAP, height: height + GAP },
  );
  map.replaceChildren(
    ...ordered.map(({ shard }, at) => {
      const box = /** @type {Box} */ (boxes[at]);
      return shardBlock(shard, /** @type {readonly TableSnapshot[]} */ (tables), {
        ...box,
        width: box.width - GAP,
        height: box.height - GAP,
      });
    }),
  );
}

/** @param {ShardSnapshot} shard @param {readonly TableSnapshot[]} tables @param {Box} box */
function shardBlock(shard, tables, box) {
  const block = el('div', { class: 'shard', 'data-shard': shard.name });
  place(block, box);
  const bytes = shard.held.reduce((sum, part) => sum + part.bytes, 0);
  const title = el('p', { class: 'shard-name' }, el('b', {}, shard.main ? 'main, this process' : shard.name), ` ${shownBytes(bytes)}`);
  const chips = el('ul', { class: 'chips', 'aria-label': `Replicas of ${shard.name}` });
  block.append(title, chips);
  const perRow = Math.max(1, Math.floor((box.width - 12) / CHIP_WIDTH));
  const top = TITLE_HEIGHT + 4 + CHIP_HEIGHT * Math.ceil(chipsOf(shard).length / perRow);
  const held = shard.held.filter((part) => part.bytes > 0).sort((a, b) => b.bytes - a.bytes);
  const inner = { x: 4, y: top, width: box.width - 8, height: Math.max(0, box.height - top - 4) };
  const boxes =
    inner.width > 8 && inner.height > 8
      ? treemap(
          held.map((part) => part.bytes),
          inner,
        )
      : [];
  for (const [at, cellBox] of boxes.entries()) {
    const part = /** @type {ShardSnapshot['held'][number]} */ (held[at]);
    const table = /** @type {TableSnapshot} */ (tables[part.table]);
    const which = part.parts > 1 ? `part ${part.part + 1} of ${part.parts}, ` : '';
    const where = `${which}${shownBytes(part.bytes)} on ${shard.name}`;
    const cell = el('button', { class: 'cell', type: 'button', tabindex: '-1', 'data-table': String(part.table), 'data-place': where });
    place(cell, { ...cellBox, width: Math.max(1, cellBox.width - 1), height: Math.max(1, cellBox.height - 1) });
    if (cellBox.width >= NAMED.width && cellBox.height >= NAMED.height)
      cell.append(el('span', { class: 'cell-name' }, part.parts > 1 ? `${table.name} ${part.part + 1}/${part.parts}` : table.name));
    if (cellBox.width >= SIZED.width && cellBox.height >= SIZED.height)
      cell.append(el('span', { class: 'cell-size' }, shownBytes(part.bytes)));
    block.append(cell);
  }
  return block;
}

/** @param {HTMLElement} element @param {Box} box */
function place(element, { x, y, width, height }) {
  Object.assign(element.style, { left: `${x}px`, top: `${y}px`, width: `${width}px`, height: `${height}px` });
}

/** Each replica, or where there are many, how many are in each state.
 * @param {ShardSnapshot} shard
 */
function chipsOf({ replicas }) {
  if (replicas.length <= MOST_CHIPS)
    return replicas.map(({ health, endpoint, why }) => ({ health, text: health, title: `${endpoint} ${why}`.trim() }));
  const states = [...new Set(replicas.map(({ health }) => health))];
  return states.map((health) => {
    const alike = replicas.filter((replica) => replica.health === health);
    return { health, text: `${alike.length} ${health}`, title: alike.map(({ endpoint }) => endpoint).join(', ') };
  });
}

/** @param {Element} map @param {ShardSnapshot} shard */
function updateShard(map, shard) {
  const block = [...map.children].find((each) => each.getAttribute('data-shard') === shard.name);
  if (block === undefined) return;
  const { replicas } = shard;
  const isLost = replicas.length > 0 && replicas.every(({ health }) => health === 'down');
  const state = isLost
    ? 'lost'
    : replicas.some(({ health }) => health === 'down')
      ? 'hurt'
      : replicas.some(({ health }) => health !== 'up')
        ? 'uneasy'
        : 'sound';
  setAttribute(block, 'data-state', state);
  const chips = /** @type {Element} */ (block.querySelector('.chips'));
  each(
    chips,
    chipsOf(shard),
    () => 'chip',
    () => el('li', { class: 'chip' }),
    (chip, { health, text, title }) => {
      setAttribute(chip, 'title', title);
      if (chip.getAttribute('data-health') === health && chip.textContent === text) return;
      setAttribute(chip, 'data-health', health);
      chip.replaceChildren(healthIcon(health), text);
    },
  );
}

/** @param {TableSnapshot} table @param {string} where */
function tableText({ name, rows, dim, format, lookups, unseen }, where) {
  const rates = `${shownCount(lookups)} lookups/s${unseen > 0 ? `, ${shownCount(unseen)} unseen ids/s` : ''}`;
  return `${name}: ${where}; ${shownCount(rows)} rows of ${dim} ${format}; ${rates}`;
}

function showTip() {
  const tip = byId('map-tip');
  const cell = current === '' ? null : byId('map').querySelector(current);
  const hint = 'Point at a table, or tap it, for what it holds; arrow keys go from one to the next.';
  setText(tip, cell?.getAttribute('aria-label') ?? hint);
}

/** Shows what is pointed at, tapped or focused. */
export function watchMap() {
  const map = byId('map');
  const choose = (/** @type {Event} */ event) => {
    const cell = event.target instanceof Element ? event.target.closest('.cell') : null;
    if (cell === null) return;
    map.querySelector('.cell.chosen')?.classList.remove('chosen');
    cell.classList.add('chosen');
    current = '.cell.chosen';
    showTip();
  };
  for (const event of ['pointerover', 'click', 'focusin']) map.addEventListener(event, choose);
  map.tabIndex = 0;
  map.addEventListener('keydown', (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const cells = /** @type {HTMLElement[]} */ ([...map.querySelectorAll('.cell')]);
    const at = cells.findIndex((cell) => cell.classList.contains('chosen'));
    cells[(at + step + cells.length) % cells.length]?.focus();
  });
  new ResizeObserver(() => {
    if (shown !== null) drawMap(shown);
  }).observe(map);
}
