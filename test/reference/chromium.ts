import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';

const NAMES = ['chromium', 'chromium-browser', 'google-chrome-stable', 'google-chrome'];

/** The command of a Chromium of this machine; null where there is none. */
export const chromiumCommand: string | null =
  process.env['CHROMIUM'] ?? NAMES.find((name) => spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0) ?? null;

interface Reply {
  readonly id?: number;
  readonly result?: Record<string, unknown>;
  readonly error?: { readonly message: string };
  readonly method?: string;
  readonly params?: Record<string, unknown>;
}

/** A headless Chromium with one page, driven by the DevTools protocol over a pipe. */
export class Chromium {
  /** Addresses that the page asked for. */
  readonly requested: string[] = [];
  /** Exceptions, errors of the console, and what the content security policy refused. */
  readonly complaints: string[] = [];
  #numbers = 0;
  #session = '';
  readonly #waiting = new Map<number, (reply: Reply) => void>();

  private constructor(
    private readonly process: ChildProcess,
    private readonly profile: string,
  ) {
    let text = '';
    (process.stdio[4] as Readable).setEncoding('utf8').on('data', (data: string) => {
      const messages = (text + data).split('\0');
      text = messages.pop() ?? '';
      for (const message of messages) this.#receive(JSON.parse(message) as Reply);
    });
  }

  static async open(): Promise<Chromium> {
    const profile = await mkdtemp(join(tmpdir(), 'terabag-chromium-'));
    const switches = ['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', '--hide-scrollbars'];
    const quiet = ['--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-default-browser-check'];
    const browser = spawn(
      chromiumCommand ?? 'chromium',
      [...switches, ...quiet, `--user-data-dir=${profile}`, '--remote-debugging-pipe', 'about:blank'],
      { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] },
    );
    await once(browser, 'spawn');
    const chromium = new Chromium(browser, profile);
    const { targetInfos } = (await chromium.send('Target.getTargets')) as { targetInfos: { type: string; targetId: string }[] };
    const page = targetInfos.find(({ type }) => type === 'page');
    const target = page?.targetId ?? (await chromium.send('Target.createTarget', { url: 'about:blank' }))['targetId'];
    chromium.#session = (await chromium.send('Target.attachToTarget', { targetId: target, flatten: true }))['sessionId'] as string;
    for (const domain of ['Page', 'Runtime', 'Network', 'Log']) await chromium.send(`${domain}.enable`);
    return chromium;
  }

  #receive({ id, result = {}, error, method, params = {} }: Reply): void {
    if (id !== undefined) {
      this.#waiting.get(id)?.({ result, ...(error && { error }) });
      this.#waiting.delete(id);
    }
    if (method === 'Network.requestWillBeSent') this.requested.push((params['request'] as { url: string }).url);
    if (method === 'Runtime.exceptionThrown') this.complaints.push(JSON.stringify(params['exceptionDetails']));
    if (method === 'Runtime.consoleAPICalled' && params['type'] === 'error') this.complaints.push(JSON.stringify(params['args']));
    if (method === 'Log.entryAdded') this.complaints.push((params['entry'] as { text: string }).text);
  }

  send(method: string, params: Record<string, unknown> = {}): Promise<Record<string, unknown>> {
    const id = ++this.#numbers;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, ({ result = {}, error }) =>
        error === undefined ? resolve(result) : reject(new Error(`${method}: ${error.message}`)),
      );
      const message = { id, method, params, ...(this.#session !== '' && { sessionId: this.#session }) };
      (this.process.stdio[3] as Writable).write(`${JSON.stringify(message)}\0`);
    });
  }

  /** Shows a page as a device of this size and colour scheme does. */
  async show(url: string, { width = 1280, height = 900, scheme = 'light', scale = 1 } = {}): Promise<void> {
    await this.send('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: scale, mobile: width < 600 });
    await this.send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] });
    await this.send('Page.navigate', { url });
  }

  /** The value of an expression in the page. */
  async read<T>(expression: string): Promise<T> {
    const { result, exceptionDetails } = (await this.send('Runtime.evaluate', {
      expression,
      returnByValue: true,
      awaitPromise: true,
    })) as { result: { value: T }; exceptionDetails?: { text: string } };
    if (exceptionDetails !== undefined) throw new Error(`${expression}: ${exceptionDetails.text}`);
    return result.value;
  }

  /** Of the whole page, PNG. */
  async screenshot(height: number, width: number): Promise<Buffer> {
    const clip = { x: 0, y: 0, width, height, scale: 1 };
    const { data } = await this.send('Page.captureScreenshot', { format: 'png', captureBeyondViewport: true, clip });
    return Buffer.from(data as string, 'base64');
  }

  async close(): Promise<void> {
    const ended = once(this.process, 'exit');
    void this.send('Browser.close').catch(() => undefined);
    const killed = setTimeout(() => this.process.kill('SIGKILL'), 5_000);
    await ended;
    clearTimeout(killed);
    await rm(this.profile, { recursive: true, force: true, maxRetries: 5 });
  }
}
