import type { ServedModel } from './served-model.js';

/** What a case needs of the machine; without it, it is skipped and says so. */
export type Need = 'network' | 'cpu' | 'memory-limit' | 'root';

/** One fault, what the system does to it, and what has to hold. */
export interface Case {
  /** Words joined by hyphens. */
  readonly name: string;
  readonly does: string;
  readonly required: string;
  readonly needs?: readonly Need[];
  /** Measures latency, or holds the event loop: nothing else runs beside it. */
  readonly alone?: boolean;
  /** The longest that it may take; default 30 s, in the long form three times as long. */
  readonly boundMs?: number;
  run(stage: Stage): Promise<void>;
}

/** What a case works with. */
export interface Stage {
  readonly seed: number;
  readonly long: boolean;
  /** Half of the measured capacity, or less in the short form; requests a second. */
  readonly qps: number;
  /** Requests a second that two shards with one replica each answer at most. */
  readonly capacity: number;
  /** The model that most cases serve. */
  readonly model: ServedModel;
  /** Ended when the case takes too long. */
  readonly signal: AbortSignal;
  /** Undone at the end of the case, whichever way it ends, the latest first. */
  defer(undo: () => Promise<unknown> | unknown): void;
  /** Fails the case, which goes on, when it does not hold. */
  expect(holds: boolean, otherwise: string): void;
  /** What was seen, for the table; several are joined. */
  saw(what: string): void;
  /** Figures for the result file. */
  figure(name: string, value: number): void;
  /** A directory of the case's own, removed at its end. */
  scratch(): Promise<string>;
}

export const MS = (value: number): string => (Number.isFinite(value) ? `${value < 10 ? value.toFixed(2) : Math.round(value)} ms` : 'never');
