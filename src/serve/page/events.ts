import type { ServerResponse } from 'node:http';
import { TerabagError } from '../../errors.js';
import type { Snapshot } from './snapshot.js';

const EVERY_MS = 1_000;
/** Each gets every snapshot: tens of kilobytes a second. */
const MOST_LISTENERS = 32;
/** A listener that has not read so much gets no more until it has. */
const MOST_UNREAD_BYTES = 2 ** 20;
/** And is cut off when it has missed so many in a row. */
const MOST_MISSED = 30;

/** Sends snapshots to listeners as server-sent events, one a second; nothing happens while there are none. */
export class Events {
  /** And how many snapshots each has missed. */
  readonly #listeners = new Map<ServerResponse, number>();
  #timer: NodeJS.Timeout | null = null;
  #isTaking = false;
  #latest: string | null = null;

  constructor(private readonly take: () => Promise<Snapshot>) {}

  get listeners(): number {
    return this.#listeners.size;
  }

  /** Throws overloaded when there are too many already. */
  admit(): void {
    if (this.#listeners.size < MOST_LISTENERS) return;
    throw new TerabagError('overloaded', `too many listen to events already: ${MOST_LISTENERS}`);
  }

  /** Of a response whose head is written. */
  add(response: ServerResponse): void {
    // Two may have been admitted at the same time.
    if (this.#listeners.size >= MOST_LISTENERS) {
      response.end();
      return;
    }
    this.#listeners.set(response, 0);
    response.once('close', () => this.#remove(response));
    if (this.#latest !== null) response.write(this.#latest);
    this.#timer ??= setInterval(() => void this.#send(), EVERY_MS).unref();
    void this.#send();
  }

  #remove(response: ServerResponse): void {
    this.#listeners.delete(response);
    if (this.#listeners.size > 0) return;
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
    this.#latest = null;
  }

  async #send(): Promise<void> {
    if (this.#isTaking) return;
    this.#isTaking = true;
    try {
      const message = `data: ${JSON.stringify(await this.take())}\n\n`;
      if (this.#listeners.size > 0) this.#latest = message;
      for (const [response, missed] of this.#listeners) {
        const isBehind = response.writableLength > MOST_UNREAD_BYTES;
        this.#listeners.set(response, isBehind ? missed + 1 : 0);
        if (!isBehind) response.write(message);
        else if (missed >= MOST_MISSED) response.destroy();
      }
    } catch {
      // A model that is just being closed: the next snapshot is without it.
    } finally {
      this.#isTaking = false;
    }
  }

  /** Ends all. */
  close(): void {
    for (const response of this.#listeners.keys()) response.end();
  }
}
