import type { Clock } from '../../src/clock.js';
import type { SeededRandom } from './random.js';
import type { Due, Scheduler } from './scheduler.js';
import type { Violations } from './violations.js';

/** Phases of an event loop, in their order. */
type Phase = 'timers' | 'sockets' | 'check';

interface Timer {
  readonly every: number | null;
  /** Node runs all due timers of one duration together. */
  readonly ms: number;
  readonly call: () => void;
  due: Due | null;
}

interface Waiting {
  readonly at: number;
  readonly ms: number;
  readonly call: () => void;
}

/** Timers of Node count whole milliseconds of a clock that they read once a turn: early by almost one, late by what the turn takes. */
const EARLIEST_MS = -0.9;
const LATEST_MS = 0.6;
/** From a callback to what waits for the end of a poll. */
const POLL_MS = 0.01;
/** Stalls that are remembered, for what may be late. */
const STALLS = 64;

export interface ProcessOptions {
  readonly name: string;
  readonly scheduler: Scheduler;
  readonly violations: Violations;
  readonly random: SeededRandom;
  /** Its monotonic clock when it starts, and how fast it goes. */
  readonly originMs: number;
  readonly rate: number;
  /** How often reading the clock finds that the process stood still meanwhile, as for a garbage collection: within a callback, that is. */
  readonly pauses: { readonly chance: number; readonly maxMs: number };
}

/** Who runs: whoever takes memory, or reads clocks that are not the simulator's. */
export const running: { process: SimulatedProcess | null } = { process: null };

/** A process with an event loop, a monotonic clock of its own, and no memory of its predecessor. */
export class SimulatedProcess implements Clock {
  readonly name: string;
  alive = true;
  readonly #startedAt: number;
  readonly #timers = new Set<Timer>();
  #busyUntil = 0;
  /** As far as its own code has come: a stall may end before its time, but no clock goes back. */
  #reached = 0;
  #resume: Due | null = null;
  readonly #backlog: Record<Phase, Waiting[]> = { timers: [], sockets: [], check: [] };
  readonly #stalls: { from: number; to: number }[] = [];
  readonly #byDuration: boolean;

  constructor(private readonly options: ProcessOptions) {
    this.name = options.name;
    this.#startedAt = options.scheduler.now;
    this.#byDuration = options.random.chance(0.5);
  }

  now(): number {
    const { pauses, random } = this.options;
    if (random.chance(pauses.chance)) this.spend(random.magnitude(0.05, pauses.maxMs));
    return this.localAt(this.time);
  }

  /** Virtual time as it is for this process: ahead of the scheduler's after a pause within a callback. */
  get time(): number {
    return Math.max(this.options.scheduler.now, this.#busyUntil);
  }

  localAt(at: number): number {
    return this.options.originMs + (at - this.#startedAt) * this.options.rate;
  }

  globalAt(local: number): number {
    return this.#startedAt + (local - this.options.originMs) / this.options.rate;
  }

  after(ms: number, call: () => void): () => void {
    return this.#add({ every: null, ms, call, due: null });
  }

  every(ms: number, call: () => void): () => void {
    return this.#add({ every: ms, ms, call, due: null });
  }

  afterPolling(call: () => void): void {
    this.at(this.time + POLL_MS, 'check', call);
  }

  get timers(): number {
    return this.#timers.size;
  }

  /** Something reaches the process from without: in the poll phase, at the earliest at that time. */
  at(at: number, phase: Phase, call: () => void): Due {
    const { scheduler } = this.options;
    return scheduler.at(at, () => this.perform(phase, call));
  }

  /** Something reaches the process in this step: it is done now, or when the event loop goes on. */
  perform(phase: Phase, call: () => void): void {
    this.#perform(phase, { at: this.options.scheduler.now, ms: 0, call });
  }

  /** The event loop stands still, from now on; other stalls go on meanwhile. */
  stall(ms: number): void {
    this.#reached = Math.max(this.#reached, this.options.scheduler.now);
    this.#occupy(Math.max(0, this.options.scheduler.now + ms - this.time));
  }

  /** The event loop works for so long, on top of what it does. */
  spend(ms: number): void {
    this.#occupy(ms);
    this.#reached = this.#busyUntil;
  }

  #occupy(ms: number): void {
    const from = this.time;
    this.#busyUntil = from + ms;
    const last = this.#stalls.at(-1);
    if (last !== undefined && last.to >= from) last.to = this.#busyUntil;
    else this.#stalls.push({ from, to: this.#busyUntil });
    if (this.#stalls.length > STALLS) this.#stalls.shift();
    this.#resumeAt(this.#busyUntil);
  }

  /** Ends all stalls. */
  wake(): void {
    const at = Math.max(this.options.scheduler.now, this.#reached);
    if (this.#busyUntil <= at) return;
    this.#busyUntil = at;
    const last = this.#stalls.at(-1);
    if (last !== undefined) last.to = Math.min(last.to, at);
    this.#resumeAt(at);
  }

  /** By what the process was later than at: nothing, when it stood still all the time since then. */
  lateBy(at: number): number {
    const now = this.time;
    let late = now - at;
    for (const { from, to } of this.#stalls) late -= Math.max(0, Math.min(to, now) - Math.max(from, at));
    return late;
  }

  /** Nothing runs in it any more. */
  kill(): void {
    this.alive = false;
    for (const { due } of this.#timers) if (due !== null) due.call = null;
    this.#timers.clear();
  }

  #resumeAt(at: number): void {
    if (this.#resume !== null) this.#resume.call = null;
    this.#resume = this.options.scheduler.at(at, () => this.#catchUp());
  }

  #add(timer: Timer): () => void {
    this.#timers.add(timer);
    this.#set(timer);
    return () => {
      this.#timers.delete(timer);
      if (timer.due !== null) timer.due.call = null;
    };
  }

  #set(timer: Timer): void {
    const { rate, random } = this.options;
    const at = this.time + Math.max(1, Math.trunc(timer.ms)) / rate + random.between(EARLIEST_MS, LATEST_MS);
    timer.due = this.options.scheduler.at(at, () =>
      this.#perform('timers', { at, ms: Math.trunc(timer.ms), call: () => this.#fire(timer) }),
    );
  }

  #fire(timer: Timer): void {
    if (!this.#timers.has(timer)) return;
    if (timer.every === null) this.#timers.delete(timer);
    timer.call();
    if (timer.every !== null && this.#timers.has(timer)) this.#set(timer);
  }

  #perform(phase: Phase, waiting: Waiting): void {
    if (!this.alive) return;
    if (this.options.scheduler.now < this.#busyUntil) {
      this.#backlog[phase].push(waiting);
      return;
    }
    running.process = this;
    try {
      waiting.call();
    } catch (error) {
      this.options.violations.add('exception', `${this.name}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
    }
  }

  /** All that was due meanwhile: timers first, then what lies in sockets, each a step of its own. */
  #catchUp(): void {
    this.#resume = null;
    if (!this.alive) return;
    const { timers } = this.#backlog;
    timers.sort((one, other) => (this.#byDuration && one.ms !== other.ms ? one.ms - other.ms : one.at - other.at));
    const { scheduler } = this.options;
    for (const phase of ['timers', 'sockets', 'check'] as const)
      for (const waiting of this.#backlog[phase].splice(0)) scheduler.at(scheduler.now, () => this.#perform(phase, waiting));
  }
}
