import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { LAYERS } from '../../observe/layer-colours.js';
import { type Answer, jsonAnswer } from '../http/answer.js';
import type { Route } from '../http/router.js';
import type { Handler } from '../http/routes.js';
import type { Serving } from '../serving.js';
import { Events } from './events.js';
import type { Snapshot } from './snapshot.js';
import { type ProcessSample, snapshotOf, Watch } from './watch.js';

/** Modules of the page's script, each after those that it imports. */
const SCRIPTS = ['dom.js', 'format.js', 'treemap.js', 'map.js', 'waterfall.js', 'charts.js', 'tables.js', 'stream.js', 'page.js'];

/** The page to watch a server at /, what it shows as server-sent events at /events, and once as JSON at /status.json. */
export class Page {
  readonly watch: Watch;
  readonly #events: Events;

  private constructor(
    private readonly serving: Serving,
    private readonly document: Answer,
  ) {
    this.watch = new Watch(serving);
    serving.answer('page', () => this.watch.sample());
    this.#events = new Events(() => this.#snapshot());
  }

  static async open(serving: Serving): Promise<Page> {
    return new Page(serving, await documentAnswer());
  }

  routes(): Route<Handler>[] {
    return [
      { method: 'GET', path: '/', handle: () => this.document },
      { method: 'GET', path: '/events', handle: () => this.#listen() },
      {
        method: 'GET',
        path: '/status.json',
        handle: async () => jsonAnswer(await this.#snapshot(), 200, { 'cache-control': 'no-store' }),
      },
    ];
  }

  async #snapshot(): Promise<Snapshot> {
    return snapshotOf((await this.serving.peers.ask('page')) as readonly ProcessSample[]);
  }

  #listen(): Answer {
    this.#events.admit();
    return {
      status: 200,
      headers: { 'content-type': 'text/event-stream', 'cache-control': 'no-store', 'x-accel-buffering': 'no' },
      parts: [],
      stream: (response) => this.#events.add(response),
    };
  }

  /** Ends what listens. */
  close(): void {
    this.#events.close();
    this.watch.close();
  }
}

/** One document with style and script within; a policy that lets nothing else run or load, and nothing be asked but this server. */
async function documentAnswer(): Promise<Answer> {
  const read = (name: string): Promise<string> => readFile(new URL(`browser/${name}`, import.meta.url), 'utf8');
  const [template, css, ...modules] = await Promise.all(['page.html', 'page.css', ...SCRIPTS].map(read));
  const style = `${layerVariables()}\n${css}`;
  const script = joined(modules);
  const html = (template ?? '')
    .replace('/* style */', () => style)
    .replace('/* script */', () => script)
    .replace('["layers"]', () => JSON.stringify(Object.entries(LAYERS).map(([name, { title }]) => [name, title])));
  const policy = [
    "default-src 'none'",
    `script-src ${hashOf(script)}`,
    `style-src ${hashOf(style)}`,
    "connect-src 'self'",
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; ');
  return {
    status: 200,
    headers: {
      'content-type': 'text/html; charset=utf-8',
      'content-security-policy': policy,
      'x-content-type-options': 'nosniff',
      'referrer-policy': 'no-referrer',
      'cache-control': 'no-cache',
    },
    parts: [Buffer.from(html)],
  };
}

const hashOf = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;

/** Modules as one: their names differ, and imports are of names that stand before them. */
export const joined = (modules: readonly string[]): string =>
  modules.map((source) => source.replace(/^import [^;]*;\n/gm, '').replace(/^export /gm, '')).join('\n');

function layerVariables(): string {
  const of = (scheme: 'light' | 'dark'): string =>
    Object.entries(LAYERS)
      .map(([name, colour]) => `--layer-${name}: ${colour[scheme]};`)
      .join(' ');
  return `:root { ${of('light')} }\n@media (prefers-color-scheme: dark) { :root { ${of('dark')} } }`;
}
