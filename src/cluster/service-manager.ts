import { getSystemErrorName } from 'node:util';
import { type Clock, systemClock } from '../clock.js';

/** What a process tells the service manager that started it, as sd_notify(3) says: systemd, for a unit with Type=notify. */
export interface ServiceManager {
  /** It serves. From here on signs of life go out from the event loop, where they are wanted (WatchdogSec): when it stands still they stay away. */
  ready(status: string): void;
  /** What it does now, for systemctl status. */
  status(status: string): void;
  /** It was told to end, and drains. */
  stopping(): void;
}

export interface ServiceManagerOptions {
  /** NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; default: of this process. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly clock?: Clock;
  /** The manager cannot be told, for a reason that is new. */
  readonly onWarning?: (message: string) => void;
}

const SILENT: ServiceManager = { ready: () => undefined, status: () => undefined, stopping: () => undefined };

/** The manager's queue is full: it is asked again so much later. */
const RETRY_MS = 50;
/** Signs of life in each period that the manager waits for one, so that a late one is no end. */
const SIGNS_PER_PERIOD = 2;

/** Where nobody listens (NOTIFY_SOCKET is not set), all of it does nothing, and no addon is loaded for it. */
export async function openServiceManager(options: ServiceManagerOptions = {}): Promise<ServiceManager> {
  const { env = process.env, clock = systemClock, onWarning = () => undefined } = options;
  const address = env['NOTIFY_SOCKET'] ?? '';
  if (address === '') return SILENT;
  const { native } = await import('../engine/native.js');
  return new NotifiedManager((text) => native.sendDatagram(address, text), signsMs(env), clock, onWarning);
}

/** How often signs of life are sent; null where none are wanted, or another process is to send them. */
function signsMs({ WATCHDOG_USEC, WATCHDOG_PID }: Readonly<Record<string, string | undefined>>): number | null {
  if (WATCHDOG_PID !== undefined && WATCHDOG_PID !== '' && WATCHDOG_PID !== String(process.pid)) return null;
  const us = /^\d+$/.test(WATCHDOG_USEC ?? '') ? Number(WATCHDOG_USEC) : 0;
  return us === 0 ? null : Math.max(1, Math.min(us / 1000 / SIGNS_PER_PERIOD, 2 ** 31 - 1));
}

class NotifiedManager implements ServiceManager {
  /** In the order in which the manager is to hear them. */
  readonly #unsent: string[] = [];
  #isReady = false;
  #problem = 0;

  constructor(
    private readonly send: (text: string) => number,
    private readonly everyMs: number | null,
    private readonly clock: Clock,
    private readonly onWarning: (message: string) => void,
  ) {}

  ready(status: string): void {
    this.#tell(`READY=1\n${statusLine(status)}`);
    if (this.#isReady) return;
    this.#isReady = true;
    // One that the manager has no room for is not sent again: the next one says the same.
    if (this.everyMs !== null) this.clock.every(this.everyMs, () => this.#isSent('WATCHDOG=1'));
  }

  status(status: string): void {
    this.#tell(statusLine(status));
  }

  stopping(): void {
    this.#tell(`STOPPING=1\n${statusLine('draining')}`);
  }

  #tell(text: string): void {
    this.#unsent.push(text);
    if (this.#unsent.length === 1) this.#sendUnsent();
  }

  #sendUnsent(): void {
    for (;;) {
      const [text] = this.#unsent;
      if (text === undefined) return;
      if (!this.#isSent(text)) {
        this.clock.after(RETRY_MS, () => this.#sendUnsent(), 'background');
        return;
      }
      this.#unsent.shift();
    }
  }

  /** False while there is no room; what cannot be sent for another reason counts as sent. */
  #isSent(text: string): boolean {
    const errno = this.send(text);
    const name = errno === 0 ? '' : getSystemErrorName(-errno);
    if (name === 'EAGAIN') return false;
    if (errno !== 0 && errno !== this.#problem) this.onWarning(`the service manager cannot be told (NOTIFY_SOCKET): ${name}`);
    this.#problem = errno;
    return true;
  }
}

/** A line is a field. */
const statusLine = (status: string): string => `STATUS=${status.replace(/\s+/g, ' ')}`;
