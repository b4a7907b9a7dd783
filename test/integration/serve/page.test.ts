import { rm, writeFile } from 'node:fs/promises';
import { connect as connectSocket, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import {
  type Cluster,
  connect,
  launchCluster,
  openLocal,
  type Plan,
  type ServingServer,
  type ShardedPredictor,
  serve,
} from '../../../src/index.js';
import { readModelSpec } from '../../../src/model/bundle.js';
import type { ModelSnapshot, Snapshot } from '../../../src/serve/page/snapshot.js';
import { Chromium, chromiumCommand } from '../../reference/chromium.js';
import { type Feature, featureRequest, writeFeatureModel } from '../../reference/feature-model.js';
import { planBySpec } from '../../reference/plans.js';
import { random } from '../../reference/small-model.js';

const HOSTILE = `</script><img src=x onerror="fetch('/owned')">&"'`;
const FEATURES: readonly Feature[] = [
  { name: 'user_id', rows: 400, ids: 1, side: 'user' },
  { name: 'history', rows: 300, ids: 20, side: 'user' },
  { name: 'item_id', rows: 500, ids: 1, side: 'item', unseen: true },
  { name: HOSTILE, rows: 200, ids: 2, side: 'item' },
];
const POLL = { timeout: 30_000, interval: 100 };

let bundle: string;
let plan: Plan;
beforeAll(async () => {
  bundle = await writeFeatureModel(FEATURES);
  const planned = planBySpec('capacity-balanced', await readModelSpec(bundle), { shards: 2 });
  plan = { ...planned, shards: planned.shards.map(({ name }, s) => ({ name, endpoints: [0, 1].map((r) => `tcp://host-${s}-${r}:1`) })) };
});
afterAll(() => rm(bundle, { recursive: true }));

/** Passes what comes on to a port, later by a time that may change. */
class Delay {
  ms = 0;
  readonly #sockets = new Set<Socket>();
  readonly #server: Server;

  private constructor(private readonly target: number) {
    this.#server = createServer((near) => {
      const far = connectSocket(this.target, '127.0.0.1');
      for (const [from, to] of [
        [near, far],
        [far, near],
      ] as const) {
        this.#sockets.add(from);
        from.on('data', (data) => setTimeout(() => to.write(data), this.ms / 2));
        from.on('close', () => to.destroy());
        from.on('error', () => to.destroy());
      }
    });
  }

  static async open(endpoint: string): Promise<Delay> {
    const delay = new Delay(Number(endpoint.split(':').at(-1)));
    await new Promise<void>((resolve) => delay.#server.listen(0, '127.0.0.1', resolve));
    return delay;
  }

  get endpoint(): string {
    return `tcp://127.0.0.1:${(this.#server.address() as { port: number }).port}`;
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }
}

/** Snapshots of a server as they come, until the response ends. */
async function* snapshots(url: string): AsyncGenerator<Snapshot> {
  const response = await fetch(`${url}/events`);
  expect(response.headers.get('content-type')).toBe('text/event-stream');
  let text = '';
  for await (const data of response.body as unknown as AsyncIterable<Uint8Array>) {
    const events = (text + Buffer.from(data).toString()).split('\n\n');
    text = events.pop() ?? '';
    for (const event of events) yield JSON.parse(event.slice('data: '.length)) as Snapshot;
  }
}

/** Asks at a steady rate until it is ended. */
function load(url: string): { end: () => Promise<void> } {
  let going = true;
  const next = random(5);
  const running = (async () => {
    while (going) {
      const body = JSON.stringify(featureRequest(FEATURES, next, 8));
      await fetch(`${url}/v1/models/feed:rank?deadline_ms=5000`, { method: 'POST', body }).then((response) => response.arrayBuffer());
      await sleep(5);
    }
  })();
  return {
    end: async () => {
      going = false;
      await running;
    },
  };
}

describe('a local predictor', () => {
  let server: ServingServer;
  let close: () => Promise<void>;
  beforeEach(async () => {
    const predictor = await openLocal(bundle, { deadlineMs: 5_000 });
    server = await serve([{ name: 'feed', predictor }], { http: '127.0.0.1:0' });
    close = async () => {
      await server.close();
      await predictor.close();
    };
  });
  afterEach(() => close());

  test('events tell rates, latency, lookups by table, ids that were not there, stages and the slowest requests', async () => {
    const asking = load(server.url);
    let last: ModelSnapshot | undefined;
    let seen = 0;
    for await (const { server: of, models } of snapshots(server.url)) {
      expect(of).toMatchObject({ ready: true, draining: false, processes: 1 });
      last = models[0];
      if (++seen === 6) break;
    }
    await asking.end();
    expect(last).toMatchObject({ name: 'feed', version: '1', state: 'READY', reasons: [], planHash: '', rates: { errors: 0 } });
    expect(last!.rates.requests).toBeGreaterThan(5);
    expect(last!.rates.items / last!.rates.requests).toBeCloseTo(8, 5);
    expect(last!.latency!.p50).toBeGreaterThan(0);
    expect(last!.latency!.p99).toBeGreaterThanOrEqual(last!.latency!.p50);
    const lookups = Object.fromEntries(last!.tables!.map((table) => [table.name, table.lookups / last!.rates.requests]));
    expect(lookups['user_id']).toBeCloseTo(1, 5);
    expect(lookups['history']).toBeCloseTo(20, 5);
    expect(lookups[HOSTILE]).toBeCloseTo(16, 5);
    expect(last!.tables!.find(({ name }) => name === 'item_id')!.unseenTotal).toBeGreaterThan(0);
    expect(last!.shards).toMatchObject([{ name: 'main', main: true, replicas: [] }]);
    expect(last!.shards[0]!.held.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(1400 * 16 * 4);
    const { latency } = last!.traced!;
    expect(Object.values(latency.layers).reduce((a, b) => a + b)).toBeCloseTo(latency.totalUs, 0);
    const [slowest] = last!.slowest;
    expect(slowest).toMatchObject({ items: 8, error: null });
    expect(last!.slowest.every(({ ms }) => ms <= slowest!.ms)).toBe(true);
    const spans = slowest!.lanes.flatMap((lane) => lane.spans);
    expect(spans.map(({ layer }) => layer)).toContain('dense');
    expect(spans.every(({ fromUs, toUs }) => fromUs >= 0 && toUs > fromUs && toUs <= slowest!.ms * 1000 + 1)).toBe(true);
  });

  test('nothing is traced or counted while nobody watches, nor from some seconds after the last has gone', async () => {
    const predictor = await openLocal(bundle);
    const other = await serve(predictor, { http: '127.0.0.1:0' });
    expect(predictor.watched!.trace).toBeNull();
    for await (const _ of snapshots(other.url)) break;
    expect(predictor.watched!.trace).not.toBeNull();
    await expect.poll(() => predictor.watched!.trace, POLL).toBeNull();
    await other.close();
    await predictor.close();
  });

  test('with tokens the page is open, since it holds nothing, and what it shows is not', async () => {
    const tokenFile = join(bundle, 'tokens');
    await writeFile(tokenFile, 'correct-horse-battery-staple\n');
    const predictor = await openLocal(bundle);
    const other = await serve(predictor, { http: '127.0.0.1:0', tokenFile });
    const statusOf = async (path: string, headers: Record<string, string> = {}): Promise<number> => {
      const response = await fetch(other.url + path, { headers });
      await response.body?.cancel();
      return response.status;
    };
    expect(await statusOf('/')).toBe(200);
    for (const path of ['/events', '/status.json']) {
      expect(await statusOf(path)).toBe(401);
      expect(await statusOf(path, { authorization: 'Bearer correct-horse-battery-staple' })).toBe(200);
    }
    await other.close();
    await predictor.close();
  });

  test('status.json is a snapshot', async () => {
    const status = (await (await fetch(`${server.url}/status.json`)).json()) as Snapshot;
    expect(status.models.map(({ name }) => name)).toEqual(['feed']);
  });

  test('listeners do not hold the end up, and are told of it', async () => {
    const events = snapshots(server.url);
    await events.next();
    const started = performance.now();
    await server.close();
    expect(performance.now() - started).toBeLessThan(2_000);
    let rest = await events.next();
    while (!rest.done) rest = await events.next();
  });

  test('listeners are bounded in number, and others may come when some have gone', async () => {
    const ends = new AbortController();
    const statuses: number[] = [];
    for (let n = 0; n < 33; n++) statuses.push((await fetch(`${server.url}/events`, { signal: ends.signal })).status);
    expect(statuses).toEqual([...Array(32).fill(200), 503]);
    ends.abort();
    await expect.poll(async () => (await fetch(`${server.url}/events`, { signal: AbortSignal.timeout(500) })).status, POLL).toBe(200);
  });

  test('the page lets nothing run or load but itself, and is no content of a frame', async () => {
    const response = await fetch(server.url);
    const policy = response.headers.get('content-security-policy')!;
    expect(policy).toMatch(/^default-src 'none'; script-src 'sha256-[^']+'; style-src 'sha256-[^']+'; connect-src 'self'; img-src data:;/);
    expect(policy).toContain("frame-ancestors 'none'");
    expect(policy).not.toContain('unsafe');
    expect(response.headers.get('x-content-type-options')).toBe('nosniff');
    const html = await response.text();
    expect(html).not.toMatch(/(?:src|href)="(?:https?:)?\/\//);
    expect(html).not.toMatch(/^(?:import|export) /m);
    expect((await fetch(`${server.url}/events`, { method: 'HEAD' })).status).toBe(200);
  });
});

describe.skipIf(chromiumCommand === null)(
  `in Chromium${chromiumCommand === null ? ' (skipped: there is none; apt-get install chromium)' : ''}`,
  () => {
    let chromium: Chromium;
    let cluster: Cluster;
    let predictor: ShardedPredictor;
    let server: ServingServer;
    let delay: Delay;
    let asking: { end: () => Promise<void> };
    beforeAll(async () => {
      chromium = await Chromium.open();
      cluster = await launchCluster(plan, { bundle, ephemeralPorts: true, logLevel: 'silent', restart: false });
      const [first, ...others] = cluster.plan.shards as [Plan['shards'][number], ...Plan['shards']];
      delay = await Delay.open(first.endpoints[1]!);
      const delayed: Plan = { ...cluster.plan, shards: [{ ...first, endpoints: [first.endpoints[0]!, delay.endpoint] }, ...others] };
      predictor = await connect(delayed, { bundle, deadlineMs: 5_000 });
      server = await serve(
        [
          { name: 'feed', predictor },
          { name: HOSTILE, predictor },
        ],
        { http: '127.0.0.1:0' },
      );
      asking = load(server.url);
    });
    afterAll(async () => {
      await asking?.end();
      await server?.close();
      await predictor?.close();
      delay?.close();
      await cluster?.stop();
      await chromium?.close();
    });

    const text = (selector: string): Promise<string> =>
      chromium.read(`document.querySelector(${JSON.stringify(selector)})?.innerText ?? ''`);
    const choose = (start: string): Promise<void> =>
      chromium.read(`(() => {
      const select = document.querySelector('#model');
      select.value = [...select.options].find((option) => option.textContent.startsWith(${JSON.stringify(start)})).value;
      select.dispatchEvent(new Event('change'));
    })()`);
    /** The model that is asked. */
    const shown = async (): Promise<void> => {
      await expect.poll(() => text('#live'), POLL).toBe('Live');
      await choose('feed');
    };
    const rowOf = (endpoint: string): Promise<{ health: string; words: string; colour: string }> =>
      chromium.read(`(() => {
      const row = [...document.querySelectorAll('#replicas tr')].find((row) => row.innerText.includes(${JSON.stringify(endpoint)}));
      const health = row?.querySelector('.health');
      return { health: row?.dataset.health, words: health?.innerText.trim(), colour: health && getComputedStyle(health).color };
    })()`);

    test('the plan is a map of shards with their replicas and tables, and names are texts whatever they hold', async () => {
      await chromium.show(server.url);
      await shown();
      await expect.poll(() => chromium.read('document.querySelectorAll(".shard .chip[data-health=up]").length'), POLL).toBe(4);
      expect(await chromium.read('[...document.querySelectorAll(".shard")].map((shard) => shard.dataset.shard)')).toEqual([
        'shard-0',
        'shard-1',
      ]);
      const labels = await chromium.read<string[]>(
        '[...document.querySelectorAll(".cell")].map((cell) => cell.getAttribute("aria-label"))',
      );
      for (const { name, rows } of FEATURES)
        expect(labels.filter((label) => label.startsWith(`${name}: `) && label.includes(`${rows} rows`))).toHaveLength(1);
      expect(await chromium.read('[...document.querySelectorAll("#model option")].map((option) => option.textContent)')).toContain(
        `${HOSTILE}, version 1`,
      );
      expect(await chromium.read('document.images.length + document.querySelectorAll("script[src], iframe, object").length')).toBe(0);
      await expect.poll(() => text('#hot'), POLL).toContain('item_id');
      await expect.poll(() => text('#stages'), POLL).toContain('The request');
      await expect.poll(() => chromium.read('document.querySelectorAll("#slow .lane").length'), POLL).toBeGreaterThan(2);
    });

    test('it asks nobody but its server, and nothing is refused by its policy', () => {
      const foreign = chromium.requested.filter(
        (url) => !url.startsWith(`${server.url}/`) && !url.startsWith('data:') && url !== 'about:blank',
      );
      expect(foreign).toEqual([]);
      expect(new Set(chromium.requested.filter((url) => url.startsWith(server.url)).map((url) => new URL(url).pathname))).toEqual(
        new Set(['/', '/events']),
      );
      expect(chromium.complaints).toEqual([]);
    });

    test('another model is shown when it is chosen', async () => {
      await choose('<');
      expect(await chromium.read('document.title')).toContain(HOSTILE);
      await choose('feed');
      expect(await chromium.read('document.title')).toContain('feed');
    });

    test.each([
      ['light', 'rgb(244, 245, 247)'],
      ['dark', 'rgb(15, 17, 20)'],
    ])('nothing is wider than a phone of 360 pixels, and colours are those of its scheme: %s', async (scheme, background) => {
      await chromium.show(server.url, { width: 360, height: 740, scheme });
      await shown();
      await expect.poll(() => chromium.read('document.querySelectorAll(".shard").length'), POLL).toBe(2);
      expect(await chromium.read('document.documentElement.scrollWidth')).toBe(360);
      const wide = await chromium.read(`[...document.querySelectorAll('body *')].filter((element) => {
      const { right, width } = element.getBoundingClientRect();
      return width > 0 && right > 361 && !element.closest('.track, .cell, select');
    }).map((element) => element.className || element.tagName)`);
      expect(wide).toEqual([]);
      expect(await chromium.read('getComputedStyle(document.body).backgroundColor')).toBe(background);
    });

    test('a replica whose answers are late is told as slow, and as up when they are not', async () => {
      await chromium.show(server.url);
      await shown();
      await expect.poll(() => rowOf(delay.endpoint), POLL).toMatchObject({ health: 'up', words: 'up' });
      delay.ms = 80;
      await expect.poll(() => rowOf(delay.endpoint), POLL).toMatchObject({ health: 'slow', words: 'slow' });
      expect(await text('#problems')).toContain(`shard-0 at ${delay.endpoint} is slow: `);
      await expect.poll(() => chromium.read('document.querySelectorAll(".chip[data-health=slow]").length'), POLL).toBe(1);
      delay.ms = 0;
      await expect.poll(() => rowOf(delay.endpoint), POLL).toMatchObject({ health: 'up' });
    });

    test('a replica that is stopped is slow, and then down', async () => {
      const endpoint = cluster.plan.shards[1]!.endpoints[0]!;
      cluster.kill('shard-1', 'SIGSTOP', 0);
      await expect.poll(() => rowOf(endpoint).then(({ health }) => health), POLL).not.toBe('up');
      await expect.poll(() => rowOf(endpoint).then(({ health }) => health), POLL).toBe('down');
      cluster.kill('shard-1', 'SIGCONT', 0);
      await expect.poll(() => rowOf(endpoint).then(({ health }) => health), POLL).toBe('up');
    });

    test('a replica that is killed is red and says that it is down within seconds; all of a shard: the server is not ready', async () => {
      const [one, other] = cluster.plan.shards[1]!.endpoints as [string, string];
      cluster.kill('shard-1', 'SIGKILL', 1);
      // One snapshot a second; the rest is what this machine may be late by.
      await expect
        .poll(() => rowOf(other), { timeout: 5_000, interval: 50 })
        .toEqual({ health: 'down', words: 'down', colour: 'rgb(193, 18, 31)' });
      expect(await text('#problems')).toContain(`shard-1 at ${other} is down: `);
      expect(await text('#ready')).toBe('Ready');
      expect(await chromium.read('document.querySelector("[data-shard=shard-1]").dataset.state')).toBe('hurt');
      cluster.kill('shard-1', 'SIGKILL', 0);
      await expect.poll(() => rowOf(one), { timeout: 5_000, interval: 50 }).toMatchObject({ health: 'down' });
      await expect.poll(() => text('#ready'), POLL).toBe('Not ready');
      expect(await chromium.read('document.querySelector("[data-shard=shard-1]").dataset.state')).toBe('lost');
    });
  },
);
