/** How long nothing may come before it is asked anew: a snapshot comes each second. */
const SILENT_MS = 6_000;
const AGAIN_MS = 1_000;

/** Listens to server-sent events, again and again. EventSource would send no token.
 * @param {{ token: () => string, onData: (data: string) => void, onState: (state: 'live' | 'lost' | 'token') => void }} options
 */
export function listen({ token, onData, onState }) {
  const run = async () => {
    for (;;) {
      const state = await listenOnce(token(), onData, onState);
      onState(state);
      if (state === 'token') return;
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  };
  void run();
}

/** Until the stream ends, and why.
 * @param {string} token
 * @param {(data: string) => void} onData
 * @param {(state: 'live') => void} onState
 * @returns {Promise<'lost' | 'token'>}
 */
async function listenOnce(token, onData, onState) {
  const silent = new AbortController();
  let timer = setTimeout(() => silent.abort(), SILENT_MS);
  try {
    const headers = /** @type {Record<string, string>} */ (token === '' ? {} : { authorization: `Bearer ${token}` });
    const response = await fetch('/events', { headers, signal: silent.signal, cache: 'no-store' });
    if (response.status === 401) return 'token';
    if (!response.ok || response.body === null) return 'lost';
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return 'lost';
      clearTimeout(timer);
      timer = setTimeout(() => silent.abort(), SILENT_MS);
      text += value;
      const events = text.split('\n\n');
      text = events.pop() ?? '';
      // Of those that came together the last is what is true now.
      const latest = events.findLast((event) => event.startsWith('data: '));
      if (latest === undefined) continue;
      onState('live');
      onData(latest.slice('data: '.length));
    }
  } catch {
    return 'lost';
  } finally {
    clearTimeout(timer);
    silent.abort();
  }
}
