// Opens a report in headless Chromium, wide and on a phone, light and dark: node scripts/check-report.mjs report.html [--screenshots DIR]
// Prints one JSON line per view; exits with 1 when the page is wider than the window, logs an error, asks the network for anything, or has text too
// close in brightness to what it stands on; with 3 when there is no Chromium.
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const NO_BROWSER = 3;
/** Pages are cut into pictures of at most this height. */
const SCREEN_HEIGHT = 1600;
const VIEWS = [1280, 390].flatMap((width) => ['light', 'dark'].map((scheme) => ({ width, scheme })));
/** What WCAG asks of text of normal size. */
const LEAST_CONTRAST = 4.5;

const [path, option, screenshots] = process.argv.slice(2);
if (path === undefined || (option !== undefined && (option !== '--screenshots' || screenshots === undefined))) {
  console.error('usage: node scripts/check-report.mjs report.html [--screenshots DIR]');
  process.exit(2);
}
if (screenshots !== undefined) mkdirSync(screenshots, { recursive: true });
const browser = [process.env.CHROMIUM, 'chromium', 'chromium-browser', 'google-chrome'].find(
  (name) => name && spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0,
);
if (browser === undefined) {
  console.error('check-report: no Chromium here (looked for $CHROMIUM, chromium, chromium-browser, google-chrome)');
  process.exit(NO_BROWSER);
}

/** A conversation by the DevTools protocol over pipes: file descriptor 3 to the browser, 4 from it, messages end with a zero byte. */
class Browser {
  #profile = mkdtempSync(join(tmpdir(), 'terabag-chromium-'));
  #process = spawn(
    browser,
    ['--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', '--remote-debugging-pipe', `--user-data-dir=${this.#profile}`],
    { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] },
  );
  #waiting = new Map();
  #next = 1;
  events = [];

  constructor() {
    let received = '';
    this.#process.stdio[4].setEncoding('utf8').on('data', (chunk) => {
      const messages = (received + chunk).split('\0');
      received = messages.pop();
      for (const text of messages) this.#receive(JSON.parse(text));
    });
    this.#process.on('exit', () => {
      for (const { reject } of this.#waiting.values()) reject(new Error('the browser ended'));
    });
  }

  #receive({ id, method, params, result, error }) {
    if (id === undefined) {
      this.events.push({ method, params });
      return;
    }
    const { resolve, reject } = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (error) reject(new Error(error.message));
    else resolve(result);
  }

  call(method, params = {}, sessionId = undefined) {
    const id = this.#next++;
    this.#process.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
  }

  async close() {
    const ended = new Promise((resolve) => this.#process.once('exit', resolve));
    await this.call('Browser.close').catch(() => undefined);
    await ended;
    rmSync(this.#profile, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** Runs in the page. */
function measure(leastContrast) {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const luminance = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) {
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
    }
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((value) =>
      value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4,
    );
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const backgrounds = (element) =>
    element === null ? [] : [...backgrounds(element.parentElement), getComputedStyle(element).backgroundColor];
  const contrast = (element, colour) => {
    const behind = backgrounds(element);
    const [a, b] = [luminance(behind), luminance([...behind, colour])].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const visible = (element) => element.getClientRects().length > 0;
  const texts = [...document.querySelectorAll('p, li, th, td, dt, dd, h1, h2, h3, figcaption, a, .badge')]
    .filter((element) => visible(element) && element.textContent.trim() !== '')
    .map((element) => ({ text: element.textContent.trim().slice(0, 60), contrast: contrast(element, getComputedStyle(element).color) }));
  // Labels within bars are centred, and stand on the bar, not on the page.
  const labels = [...document.querySelectorAll('svg text:not([text-anchor="middle"])')].filter(visible).map((element) => ({
    text: element.textContent.slice(0, 60),
    contrast: contrast(element.closest('figure'), getComputedStyle(element).fill),
  }));
  const sizes = [...document.querySelectorAll('svg text')].filter(visible).map((element) => element.getBoundingClientRect().height);
  return {
    pageWidth: document.documentElement.scrollWidth,
    height: document.documentElement.scrollHeight,
    charts: [...document.querySelectorAll('svg')].filter(visible).length,
    smallestTextPixels: Math.min(...sizes.filter((size) => size > 0)),
    faint: [...texts, ...labels].filter((text) => text.contrast < leastContrast),
    page: getComputedStyle(document.body).backgroundColor,
  };
}

async function view(chromium, { width, scheme }) {
  const { targetId } = await chromium.call('Target.createTarget', { url: 'about:blank' });
  const { sessionId } = await chromium.call('Target.attachToTarget', { targetId, flatten: true });
  const call = (method, params) => chromium.call(method, params, sessionId);
  chromium.events.length = 0;
  for (const domain of ['Runtime', 'Log', 'Network', 'Page']) await call(`${domain}.enable`);
  await call('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] });
  await call('Emulation.setDeviceMetricsOverride', { width, height: 900, deviceScaleFactor: 1, mobile: width < 640 });
  const url = pathToFileURL(resolve(path)).href;
  await call('Page.navigate', { url });
  while (!chromium.events.some(({ method }) => method === 'Page.loadEventFired')) await new Promise((done) => setTimeout(done, 20));
  const expression = `(${measure})(${LEAST_CONTRAST})`;
  const { result, exceptionDetails } = await call('Runtime.evaluate', { expression, returnByValue: true });
  if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
  const { faint, ...measured } = result.value;
  if (screenshots !== undefined) await photograph(call, `${width}-${scheme}`, width, measured.height);
  const problems = [
    ...(measured.pageWidth > width ? [`the page is ${measured.pageWidth} pixels wide in a window of ${width}`] : []),
    ...consoleErrors(chromium.events).map((text) => `console: ${text}`),
    ...requested(chromium.events)
      .filter((request) => request !== url && !request.startsWith('data:'))
      .map((request) => `asked for ${request}`),
    ...faint.map(({ text, contrast }) => `contrast ${contrast.toFixed(1)}, below ${LEAST_CONTRAST}: ${text}`),
  ];
  await chromium.call('Target.closeTarget', { targetId });
  return { width, scheme, ...measured, problems };
}

const consoleErrors = (events) =>
  events.flatMap(({ method, params }) => {
    if (method === 'Runtime.exceptionThrown') return [params.exceptionDetails.text];
    if (method === 'Runtime.consoleAPICalled' && params.type === 'error') return [params.args.map(({ value }) => value).join(' ')];
    return method === 'Log.entryAdded' && params.entry.level === 'error' ? [params.entry.text] : [];
  });

const requested = (events) => events.flatMap(({ method, params }) => (method === 'Network.requestWillBeSent' ? [params.request.url] : []));

async function photograph(call, name, width, pageHeight) {
  for (let y = 0, n = 0; y < pageHeight; y += SCREEN_HEIGHT, n++) {
    const clip = { x: 0, y, width, height: Math.min(SCREEN_HEIGHT, pageHeight - y), scale: 1 };
    const { data } = await call('Page.captureScreenshot', { captureBeyondViewport: true, clip });
    writeFileSync(join(screenshots, `${name}-${n}.png`), Buffer.from(data, 'base64'));
  }
}

const chromium = new Browser();
try {
  for (const wanted of VIEWS) {
    const seen = await view(chromium, wanted);
    console.log(JSON.stringify(seen));
    if (seen.problems.length > 0) process.exitCode = 1;
  }
} finally {
  await chromium.close();
}
