import cluster, { type Worker } from 'node:cluster';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ErrorCode, type ErrorDetails, TerabagError } from '../errors.js';
import type { ServerMetrics } from '../observe/metrics/server-metrics.js';
import { answerPrimary, answerWorker, piecesOfPrimary } from '../observe/metrics/workers.js';
import type { Answering, Peers } from './peers.js';

/** Of a worker that ended: first, and at most. */
const RESTART_MS = 500;
const MOST_RESTART_MS = 10_000;
/** One that served so long is started again at once. */
const STEADY_MS = 30_000;

/** What a primary and its workers say to one another. A number is that of the question at who asked it. */
type Message =
  | { readonly terabag: 'ask'; readonly number: number; readonly question: string; readonly argument: string }
  | { readonly terabag: 'question'; readonly number: number; readonly question: string; readonly argument: string }
  | { readonly terabag: 'answer'; readonly number: number; readonly value: Told }
  | { readonly terabag: 'answers'; readonly number: number; readonly values: readonly Told[] }
  | { readonly terabag: 'serving'; readonly where: string };

/** A value, or an error as it travels. */
type Told = { readonly value: unknown } | { readonly code: ErrorCode; readonly message: string; readonly details: ErrorDetails };

const isMessage = (message: unknown): message is Message => typeof message === 'object' && message !== null && 'terabag' in message;

/** How long all workers are waited for when one asks; those that are busy longer are left out. Loading a model takes as long as it takes. */
const ANSWER_MS = 2_000;

/**
 * Runs this process's command line in count workers, which share its listening sockets, until ended is aborted; starts those again that end before.
 * Resolves when all have ended.
 */
export async function superviseWorkers(count: number, ended: AbortSignal, { onServing, onWarning }: WorkerEvents): Promise<void> {
  let served = false;
  const relay = new Relay((where) => {
    if (!served) onServing(where);
    served = true;
  });
  const hopeless = new AbortController();
  const over = AbortSignal.any([ended, hopeless.signal]);
  const onExit = (how: string): void => {
    if (served || how !== 'code 1') return;
    hopeless.abort();
  };
  await Promise.all(Array.from({ length: count }, () => superviseOne(relay, over, { onWarning, onExit })));
  if (hopeless.signal.aborted && !ended.aborted)
    throw new TerabagError('invalid_argument', 'no worker can serve, for the reason above; correct that, and start again');
}

export interface WorkerEvents {
  /** Told once where they listen, when the first does. */
  readonly onServing: (where: string) => void;
  readonly onWarning: (message: string) => void;
}

async function superviseOne(
  relay: Relay,
  ended: AbortSignal,
  { onWarning, onExit }: Pick<WorkerEvents, 'onWarning'> & { readonly onExit: (how: string) => void },
): Promise<void> {
  let waitMs = RESTART_MS;
  while (!ended.aborted) {
    const startedAt = performance.now();
    const worker = cluster.fork();
    relay.add(worker);
    const exited = new Promise<string>((resolve) => {
      worker.once('exit', (code, signal) => resolve(signal === null ? `code ${code}` : signal));
    });
    const end = (): void => void worker.process.kill('SIGTERM');
    ended.addEventListener('abort', end);
    const how = await exited;
    ended.removeEventListener('abort', end);
    onExit(how);
    if (ended.aborted) return;
    waitMs = performance.now() - startedAt > STEADY_MS ? RESTART_MS : Math.min(MOST_RESTART_MS, waitMs * 2);
    onWarning(`worker ${worker.process.pid} ended (${how}); another is started in ${waitMs} ms`);
    await sleep(waitMs, undefined, { signal: ended }).catch(() => undefined);
  }
}

/** In the primary: hands a worker's questions to all, and their answers to it. */
class Relay {
  #numbers = 0;
  readonly #workers = new Set<Worker>();
  readonly #waiting = new Map<number, { readonly from: Worker; readonly answered: (told: Told) => void }>();

  constructor(private readonly onServing: (where: string) => void) {}

  add(worker: Worker): void {
    this.#workers.add(worker);
    // A message to one that is ending.
    worker.on('error', () => undefined);
    answerWorker(worker, () => [...this.#workers]);
    worker.once('exit', () => {
      this.#workers.delete(worker);
      for (const waiting of this.#waiting.values()) if (waiting.from === worker) waiting.answered(GONE);
    });
    worker.on('message', (message: unknown) => {
      if (!isMessage(message)) return;
      if (message.terabag === 'answer') this.#waiting.get(message.number)?.answered(message.value);
      if (message.terabag === 'serving') this.onServing(message.where);
      if (message.terabag === 'ask') void this.#ask(worker, message);
    });
  }

  async #ask(asking: Worker, { number, question, argument }: Extract<Message, { terabag: 'ask' }>): Promise<void> {
    const values = await Promise.all([...this.#workers].map((worker) => this.#askOne(worker, question, argument)));
    const answers: Message = { terabag: 'answers', number, values: values.filter((value) => value !== GONE) };
    if (asking.isConnected()) asking.send(answers);
  }

  #askOne(worker: Worker, question: string, argument: string): Promise<Told> {
    const number = this.#numbers++;
    return new Promise((resolve) => {
      const late = isQuick(question) ? setTimeout(() => answered(GONE), ANSWER_MS) : null;
      const answered = (told: Told): void => {
        if (late !== null) clearTimeout(late);
        this.#waiting.delete(number);
        resolve(told);
      };
      this.#waiting.set(number, { from: worker, answered });
      const message: Message = { terabag: 'question', number, question, argument };
      // A worker that ends meanwhile answers nothing.
      worker.send(message, (error) => error && answered(GONE));
    });
  }
}

/** Of a worker that ended or did not answer: it is left out. */
const GONE: Told = { code: 'aborted', message: '', details: {} };
const isQuick = (question: string): boolean => question !== 'load' && question !== 'unload';

/** In a worker: says where it listens. */
export function tellPrimary(where: string): void {
  const message: Message = { terabag: 'serving', where };
  process.send?.(message, undefined, undefined, () => undefined);
}

/** In a worker: the text of /metrics of all workers, which the primary makes. */
export function workerMetrics(own: ServerMetrics): () => AsyncIterable<Uint8Array> {
  answerPrimary((slices) => own.sections(slices));
  return () => piecesOfPrimary();
}

/** In a worker: all workers, asked through the primary. */
export function workerPeers(answer: Answering): Peers {
  let numbers = 0;
  const waiting = new Map<number, (values: readonly Told[]) => void>();
  const say = (message: Message): void => void process.send?.(message, undefined, undefined, () => undefined);
  process.on('message', (message: unknown) => {
    if (!isMessage(message)) return;
    if (message.terabag === 'answers') {
      waiting.get(message.number)?.(message.values);
      waiting.delete(message.number);
    }
    if (message.terabag === 'question') {
      const { number, question, argument } = message;
      const told = (value: Told): void => say({ terabag: 'answer', number, value });
      answer(question, argument).then(
        // Messages have no undefined.
        (value) => told({ value: value ?? null }),
        (thrown: unknown) => {
          const { code, message: text, details } = TerabagError.from(thrown);
          told({ code, message: text, details });
        },
      );
    }
  });
  return {
    ask: async (question, argument = '') => {
      const number = numbers++;
      const values = await new Promise<readonly Told[]>((resolve) => {
        waiting.set(number, resolve);
        say({ terabag: 'ask', number, question, argument });
      });
      return values.map((told) => {
        if ('value' in told) return told.value;
        throw new TerabagError(told.code, told.message, told.details);
      });
    },
  };
}
