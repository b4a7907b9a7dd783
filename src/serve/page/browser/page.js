import { drawStages, drawTiles } from './charts.js';
import { byId, each, el, healthIcon, setAttribute, setText } from './dom.js';
import { shownTime } from './format.js';
import { drawMap, watchMap } from './map.js';
import { listen } from './stream.js';
import { drawReplicas, drawTables } from './tables.js';
import { drawSlowest } from './waterfall.js';

/** @import { ModelSnapshot, Snapshot } from '../snapshot.js' */

/** What is shown is old after this. */
const OLD_MS = 3_500;

const MOST_PROBLEMS = 6;

/** @type {ReadonlyMap<string, string>} */
const titles = new Map(JSON.parse(byId('layers').textContent ?? '[]'));
const titleOf = (/** @type {string} */ layer) => titles.get(layer) ?? layer;
const select = /** @type {HTMLSelectElement} */ (byId('model'));

/** @type {Snapshot | null} */
let snapshot = null;
let receivedAt = 0;
let token = sessionStorage.getItem('token') ?? '';

const keyOf = (/** @type {ModelSnapshot} */ { name, version }) => JSON.stringify([name, version]);
const shownName = (/** @type {ModelSnapshot} */ { name, version }) => `${name}, version ${version}`;

function draw() {
  if (snapshot === null) return;
  const { server, models, at } = snapshot;
  byId('content').hidden = models.length === 0;
  each(
    select,
    models,
    keyOf,
    (model) => el('option', { value: keyOf(model) }),
    (option, model) => setText(option, shownName(model) + (model.reasons.length > 0 ? ' (not ready)' : '')),
  );
  select.hidden = models.length < 2;
  byId('name').hidden = models.length > 1;
  const state = server.draining ? 'draining' : server.ready ? 'up' : 'down';
  const words = { draining: 'Draining', up: 'Ready', down: 'Not ready' }[state];
  const pill = byId('ready');
  if (pill.textContent !== words) pill.replaceChildren(healthIcon(state), words);
  setAttribute(pill, 'data-health', state);
  const model = models.find((each) => keyOf(each) === select.value) ?? models[0];
  setText(byId('name'), model === undefined ? 'no model' : shownName(model));
  if (model === undefined) return;
  drawFacts(server, model);
  drawProblems(snapshot, model);
  drawTiles(model);
  drawMap(model);
  drawStages(model, titleOf);
  drawSlowest(model, at, titleOf);
  drawReplicas(model);
  drawTables(model);
}

/** @param {Snapshot['server']} server @param {ModelSnapshot} model */
function drawFacts({ version, uptimeMs, processes }, { hash, planHash, epoch, state }) {
  const facts = [
    ...(state === 'READY' ? [] : [state.toLowerCase()]),
    ...(hash === '' ? [] : [`model ${hash.slice(0, 12)}`]),
    ...(planHash === '' ? [] : [`plan ${planHash.slice(0, 12)}`, `epoch ${epoch}`]),
    `Terabag ${version}`,
    ...(processes > 1 ? [`${processes} processes`] : []),
    `up ${shownTime(uptimeMs)}`,
  ];
  setText(byId('facts'), facts.join(' \u00b7 '));
}

/** @param {Snapshot} snapshot @param {ModelSnapshot} model */
function drawProblems({ errors, models }, model) {
  const replicas = model.shards.flatMap(({ name, replicas: all }) =>
    all
      .filter(({ health }) => health !== 'up')
      .map(({ endpoint, health, why }) => ({
        health: String(health),
        text: `${name} at ${endpoint} is ${health}${why === '' ? '' : `: ${why}`}`,
      })),
  );
  const others = models.filter((each) => each !== model && each.reasons.length > 0);
  const failed = Object.entries(errors).sort(([, a], [, b]) => b - a);
  const problems = [
    ...model.reasons.map((reason) => ({ health: 'down', text: reason })),
    ...others.map((each) => ({ health: 'down', text: `${shownName(each)} is not ready: ${each.reasons.join('; ')}` })),
    ...replicas,
    ...(failed.length === 0
      ? []
      : [{ health: 'slow', text: `Errors of the last minute: ${failed.map(([code, count]) => `${code} ${count}`).join(', ')}` }]),
  ];
  problems.sort((a, b) => Number(b.health === 'down') - Number(a.health === 'down'));
  const more = problems.length - MOST_PROBLEMS;
  each(
    byId('problems'),
    [...problems.slice(0, MOST_PROBLEMS), ...(more > 0 ? [{ health: 'slow', text: `and ${more} more, below` }] : [])],
    // Counts in the texts may change without a new problem.
    ({ health, text }) => health + text.replace(/[\d.]+/g, '#'),
    ({ health }) => el('li', { 'data-health': health }, healthIcon(health), el('span')),
    (item, { text }) => setText(/** @type {Element} */ (item.lastElementChild), text),
  );
  const bad = replicas.length + model.reasons.length;
  document.title = `${bad > 0 ? `(${bad}) ` : ''}${model.name} \u2013 Terabag`;
}

function drawAge() {
  const isOld = Date.now() - receivedAt > OLD_MS;
  document.body.classList.toggle('old', isOld);
  if (receivedAt === 0) return;
  setText(byId('live'), isOld ? `Lost ${shownTime(Date.now() - receivedAt)} ago, asking again` : 'Live');
}

function start() {
  listen({
    token: () => token,
    onData: (data) => {
      snapshot = JSON.parse(data);
      receivedAt = Date.now();
      byId('token-form').hidden = true;
      draw();
      drawAge();
    },
    onState: (state) => {
      if (state !== 'token') return;
      setText(byId('live'), token === '' ? 'Waiting for a token' : 'The token was not accepted');
      byId('token-form').hidden = false;
      byId('content').hidden = true;
    },
  });
}

byId('token-form').addEventListener('submit', (event) => {
  event.preventDefault();
  token = /** @type {HTMLInputElement} */ (byId('token')).value.trim();
  sessionStorage.setItem('token', token);
  start();
});
select.addEventListener('change', draw);
watchMap();
setInterval(drawAge, 1000);
start();
