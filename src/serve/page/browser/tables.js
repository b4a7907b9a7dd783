import { byId, each, el, healthIcon, setAttribute, setText } from './dom.js';
import { counted, shownBytes, shownCount, shownMs, shownTime } from './format.js';

/** @import { ModelSnapshot, ReplicaSnapshot } from '../snapshot.js' */

const MOST_BARS = 10;
const COLUMNS = ['Shard', 'Replica', 'Health', 'Answers', 'Heartbeat', 'Requests', 'Errors', 'In flight', 'In memory', 'Up'];

/** @param {ModelSnapshot} model */
export function drawReplicas({ shards }) {
  const rows = shards.flatMap(({ name, replicas, main }) =>
    main ? [] : replicas.map((replica, at) => ({ name, replica, first: at === 0 })),
  );
  const none = shards.filter(({ main, replicas }) => !main && replicas.length === 0);
  byId('replicas-card').hidden = rows.length === 0 && none.length === 0;
  const away = rows.filter(({ replica }) => replica.health !== 'up').length;
  const unknown = none.length === 0 ? '' : `; no endpoint is known of ${none.map(({ name }) => name).join(', ')}`;
  setText(byId('replicas-note'), `${counted(rows.length, 'replica')}, ${away === 0 ? 'all up' : `${rows.length - away} up`}${unknown}`);
  // Narrow pages lay rows out as grids, which would else be no rows any more.
  setAttribute(byId('replicas-table'), 'role', 'table');
  setAttribute(byId('replicas'), 'role', 'rowgroup');
  each(
    byId('replicas-head'),
    COLUMNS,
    String,
    (column) => el('th', { role: 'columnheader', scope: 'col' }, column),
    () => undefined,
  );
  each(
    byId('replicas'),
    rows,
    ({ name, replica }) => `${name} ${replica.endpoint}`,
    () => el('tr', { role: 'row' }, ...COLUMNS.map((column) => el('td', { role: 'cell', 'data-column': column }))),
    (row, { name, replica, first }) => {
      setAttribute(row, 'data-health', replica.health);
      setAttribute(row, 'data-first', String(first));
      for (const [at, text] of cellsOf(name, replica).entries()) {
        const cell = /** @type {Element} */ (row.children[at]);
        if (at !== COLUMNS.indexOf('Health')) setText(cell, text);
        else if (cell.textContent !== text) {
          const why = el('span', { class: 'why' }, replica.why);
          cell.replaceChildren(el('span', { class: 'health' }, healthIcon(replica.health), replica.health), why);
        }
      }
    },
  );
}

/** @param {string} shard @param {ReplicaSnapshot} replica */
function cellsOf(shard, { endpoint, health, why, latencyMs, roundTripMs, inFlight, stats }) {
  const memory = stats === null ? '\u2013' : shownBytes(stats.residentBytes ?? stats.rssBytes);
  const isPart = stats !== null && stats.residentBytes !== null && stats.residentBytes < stats.tableBytes;
  const of = isPart ? ` of\u00a0${shownBytes(stats.tableBytes)}` : '';
  return [
    ...[
      shard,
      endpoint,
      health + why,
      health === 'down' ? '\u2013' : shownMs(latencyMs),
      health === 'down' ? '\u2013' : shownMs(roundTripMs),
    ],
    ...[stats === null ? '\u2013' : `${shownCount(stats.requests)}/s`, stats === null ? '\u2013' : `${shownCount(stats.errors)}/s`],
    ...[shownCount(inFlight), memory + of, stats === null ? '\u2013' : shownTime(stats.uptimeMs)],
  ];
}

/** @param {ModelSnapshot} model */
export function drawTables({ tables, counts, openMs }) {
  const all = tables ?? [];
  const hot = [...all].filter(({ lookups }) => lookups > 0).sort((a, b) => b.lookups - a.lookups);
  drawBars(
    byId('hot'),
    'No lookups now.',
    hot.map(({ name, lookups }) => ({ name, value: lookups, text: `${shownCount(lookups)}/s` })),
  );
  const unseen = [...all].filter(({ unseenTotal }) => unseenTotal > 0).sort((a, b) => b.unseen - a.unseen || b.unseenTotal - a.unseenTotal);
  const text = (/** @type {typeof unseen[number]} */ table) => `${shownCount(table.unseen)}/s, ${shownCount(table.unseenTotal)} in all`;
  drawBars(
    byId('unseen'),
    'None: every id was there.',
    unseen.map((table) => ({ name: table.name, value: table.unseen, text: text(table) })),
  );
  setText(byId('counts-note'), `since it was opened, ${shownTime(openMs)} ago`);
  each(
    byId('counts'),
    Object.entries(counts),
    ([name]) => name,
    ([name]) => el('div', {}, el('dt', {}, words(name)), el('dd')),
    (row, [, count]) => setText(/** @type {Element} */ (row.children[1]), shownCount(count)),
  );
}

/** @param {string} name as a program names it */
const words = (name) => name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);

/** @param {Element} list @param {string} empty @param {readonly { name: string, value: number, text: string }[]} bars */
function drawBars(list, empty, bars) {
  const most = Math.max(1e-9, ...bars.map(({ value }) => value));
  const shown = bars.slice(0, MOST_BARS);
  const rest = bars.length - shown.length;
  const rows = bars.length === 0 ? [{ name: empty, value: 0, text: '' }] : shown;
  each(
    list,
    rest > 0 ? [...rows, { name: `and ${counted(rest, 'table')} more`, value: 0, text: '' }] : rows,
    ({ name }) => name,
    ({ name }) => el('li', {}, el('span', { class: 'bar-name', title: name }, name), el('span', { class: 'bar-text' }), el('i')),
    (row, { value, text }) => {
      setText(/** @type {Element} */ (row.children[1]), text);
      /** @type {HTMLElement} */ (row.children[2]).style.width = `${(100 * value) / most}%`;
    },
  );
}
