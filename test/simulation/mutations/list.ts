import type { Invariant } from '../violations.js';

/** An edit that breaks something; one of the invariants has to find it. */
export interface Mutation {
  readonly name: string;
  readonly file: string;
  /** Stands there once. */
  readonly find: string;
  readonly replace: string;
  /** Those that may be broken first. */
  readonly breaks: readonly Invariant[];
}

const LINK = 'src/rpc/link.ts';
const CLIENT = 'src/rpc/client.ts';
const CALL = 'src/rpc/replicas/call.ts';
const SERVER = 'src/rpc/server.ts';

export const MUTATIONS: readonly Mutation[] = [
  {
    name: 'a cancelled attempt is not cancelled on its shard',
    file: LINK,
    find: "if (attempt.sent && this.#write(encodeClientMessage({ kind: 'cancel', id: attempt.id }))) this.options.counts.cancelled++;",
    replace: '',
    breaks: ['spared'],
  },
  {
    name: 'the loser of a hedged request is forgotten',
    file: CLIENT,
    find: 'if (call.hedge !== null) this.#giveUp(call.hedge, how, now);',
    replace: '',
    breaks: ['spared', 'leak', 'exception', 'one-end'],
  },
  {
    name: 'a retry forgets the attempt that failed',
    file: CLIENT,
    find: 'const { call, replica } = attempt;\n    this.#detach(attempt);\n    if (fault',
    replace: 'const { call, replica } = attempt;\n    if (fault',
    breaks: ['deadline', 'error-code', 'spared', 'liveness', 'leak', 'failover'],
  },
  {
    name: 'the stamp of an answer is not looked at',
    file: LINK,
    find: 'if (!sameStamp(stamp, this.#stamp)) return this.#skewed(shownStamp(stamp));',
    replace: '',
    breaks: ['answer'],
  },
  {
    name: 'the checksum of an answer is not looked at',
    file: LINK,
    find: 'native.answerChecksum(id, stamp, pooled) === checksum) return null;',
    replace: 'checksum >= 0) return null;',
    breaks: ['answer'],
  },
  {
    name: 'the length of an answer is not looked at',
    file: LINK,
    find: 'if (pooled.byteLength === answerBytes && native',
    replace: 'if (native',
    breaks: ['answer'],
  },
  {
    name: 'a greeting of another epoch is welcome',
    file: LINK,
    find: '} else if (!sameVersion(version, peer.version)) {',
    replace: '} else if (version.epoch < 0) {',
    breaks: ['epoch'],
  },
  {
    name: 'a greeting of another model is welcome',
    file: LINK,
    find: 'if (version.modelHash !== peer.version.modelHash || shard !== peer.name) {',
    replace: 'version = { ...peer.version, epoch: version.epoch };\n    if (shard !== peer.name) {',
    breaks: ['epoch'],
  },
  {
    name: 'a lost session stays ready',
    file: LINK,
    find: 'this.#state = state;',
    replace: "if (state === 'draining') this.#state = state;",
    breaks: ['epoch', 'spared', 'one-end', 'deadline', 'failover'],
  },
  {
    name: 'requests are sent to links that are not ready',
    file: 'src/rpc/replicas/replica.ts',
    find: 'if (!this.link.ready) return null;',
    replace: '',
    breaks: ['epoch', 'failover', 'liveness'],
  },
  {
    name: 'an attempt can be answered twice',
    file: LINK,
    find: 'this.#attempts.delete(attempt.id)) return;',
    replace: 'this.#attempts.has(attempt.id)) return;',
    breaks: ['leak', 'counters', 'one-end', 'exception', 'spared'],
  },
  {
    name: 'an answer is taken as often as it comes',
    file: LINK,
    find: 'this.#attempts.delete(id);\n    this.#waiting.delete(attempt);\n    return attempt;',
    replace: 'this.#waiting.delete(attempt);\n    return attempt;',
    breaks: ['leak', 'exception', 'spared', 'counters', 'one-end'],
  },
  {
    name: 'an answer is released before it is read',
    file: LINK,
    find: 'else if (attempt !== null) handlers.answered(attempt, message, received, receivedAt);',
    replace:
      'else if (attempt !== null) {\n        received.release();\n        handlers.answered(attempt, message, received, receivedAt);\n      }',
    breaks: ['answer'],
  },
  {
    name: 'a heartbeat is released before it is read',
    file: LINK,
    find: 'this.#receiveControl(message, receivedAt);\n      received.release();',
    replace: 'received.release();\n      this.#receiveControl(message, receivedAt);',
    breaks: ['error-code', 'spared', 'failover', 'liveness'],
  },
  {
    name: 'an answer that nobody waits for is not released',
    file: LINK,
    find: 'if (attempt === null || unsound !== null) received.release();',
    replace: 'if (unsound !== null) received.release();',
    breaks: ['leak'],
  },
  {
    name: 'the message of a call is not released',
    file: CALL,
    find: 'message.release();\n    rpc?.letGo();',
    replace: 'rpc?.letGo();',
    breaks: ['leak'],
  },
  {
    name: 'the message of a retry is not released',
    file: CALL,
    find: 'this.own?.release();\n  }\n\n  /** It was never sent',
    replace: '}\n\n  /** It was never sent',
    breaks: ['leak'],
  },
  {
    name: 'the message of a retry that is never sent is not released',
    file: CALL,
    find: 'if (!this.sent) this.own?.release();',
    replace: '',
    breaks: ['leak'],
  },
  {
    name: 'the message of a retry is changed after its release',
    file: CLIENT,
    find: 'renewPool(own.bytes,',
    replace: 'own.release();\n    renewPool(own.bytes,',
    breaks: ['written-after-release', 'lent-twice', 'answer', 'exception', 'one-answer'],
  },
  {
    name: 'a buffer is lent again without having been released',
    file: 'src/rpc/transport/buffer-pool.ts',
    find: 'const kept = this.#free[size]?.take();',
    replace:
      'const kept = this.#free[size]?.take();\n    if (kept !== undefined && byteLength % 97 === 0) this.#free[size]?.giveBack(kept);',
    breaks: ['lent-twice', 'written-after-release'],
  },
  {
    name: 'the listener of a signal stays',
    file: CALL,
    find: "signal?.removeEventListener('abort', this.#onAbort);",
    replace: '',
    breaks: ['leak'],
  },
  {
    name: 'an abort is not heard',
    file: CLIENT,
    find: "this.#end(call, this.#aborted(signal), 'aborted');",
    replace: 'void [call, signal];',
    breaks: ['abort'],
  },
  {
    name: 'the retry budget is ignored',
    file: CLIENT,
    find: 'if (this.#budget[how](now)) return true;',
    replace: 'if (this.#budget[how](now) || now > 0) return true;',
    breaks: ['budget'],
  },
  {
    name: 'retries are not charged',
    file: 'src/rpc/replicas/retry-budget.ts',
    find: 'if (this.#total >= REQUESTS_PER_RETRY) this.#spend();\n    else this.#free--;',
    replace: 'if (this.#total < 0) this.#spend();',
    breaks: ['budget'],
  },
  {
    name: 'what is parked goes without the budget',
    file: CLIENT,
    find: "if (counter === 'retries' && call.wasSent && !this.#budget.take(now)) return;",
    replace: '',
    breaks: ['budget'],
  },
  {
    name: 'a request is hedged at the replica that has it',
    file: CLIENT,
    find: 'new Map([...call.failures, [attempt.replica, null]])',
    replace: 'call.failures',
    breaks: ['one-replica', 'spared'],
  },
  {
    name: 'deadlines are not looked at',
    file: CLIENT,
    find: 'call = this.#calls.takeDue(now)) this.#endLate(call, now);',
    replace: 'call = this.#calls.takeDue(now)) void this.#endLate;',
    breaks: ['one-end', 'deadline', 'spared', 'leak'],
  },
  {
    name: 'requests end after their deadline',
    file: CLIENT,
    find: 'this.#calls.add(call, deadlineAt - EARLY_MS);',
    replace: 'this.#calls.add(call, deadlineAt + 5 * EARLY_MS);',
    breaks: ['deadline'],
  },
  {
    name: 'only the first of the requests that are due ends',
    file: 'src/rpc/due-list.ts',
    find: 'if (first !== null && first.dueAt < this.#armedFor) this.#arm(first.dueAt);',
    replace: '',
    breaks: ['deadline', 'one-end'],
  },
  {
    name: 'events of a transport that was replaced are believed',
    file: LINK,
    find: "const current = (): boolean => this.#state !== 'closed' && this.#transport === transport;",
    replace: "const current = (): boolean => this.#state !== 'closed' || transport === null;",
    breaks: ['epoch', 'spared', 'failover', 'leak', 'counters', 'one-replica'],
  },
  {
    name: 'attempts of a lost session are forgotten',
    file: LINK,
    find: 'this.options.handlers.down(lost);',
    replace: 'this.options.handlers.down(lost.slice(1));',
    breaks: ['failover', 'liveness'],
  },
  {
    name: 'a silent shard is waited for',
    file: LINK,
    find: 'this.#silentBeats++ >= SILENT_BEATS',
    replace: 'this.#silentBeats++ >= 1000 * SILENT_BEATS',
    breaks: ['failover', 'liveness'],
  },
  {
    name: 'what waited for a replica is not sent when one comes back',
    file: CLIENT,
    find: "if (this.#parked.size > 0) this.#unpark(this.#clock.now(), 'resent');",
    replace: '',
    breaks: ['liveness', 'failover'],
  },
  {
    name: 'a request that the queue refuses is dropped',
    file: LINK,
    find: 'this.#waiting.add(attempt);\n    this.options.counts.refused++;',
    replace: 'this.options.counts.refused++;',
    breaks: ['liveness', 'failover'],
  },
  {
    name: 'ids are used again',
    file: CLIENT,
    find: 'const id = this.#nextId++;\n      const message',
    replace: 'const id = this.#nextId++ % 4;\n      const message',
    breaks: ['answer', 'one-answer', 'deadline', 'one-end', 'leak', 'spared', 'counters', 'failover', 'liveness', 'error-code', 'abort'],
  },
  {
    name: 'a heartbeat is not stopped',
    file: LINK,
    find: 'this.#why = why;\n    this.#cancelHeartbeat();',
    replace: 'this.#why = why;',
    breaks: ['leak', 'exception'],
  },
  {
    name: 'what is sent is not counted',
    file: LINK,
    find: 'this.options.counts.sent++;',
    replace: '',
    breaks: ['counters'],
  },
  {
    name: 'a timer throws when connections cannot be opened',
    file: LINK,
    find: 'this.#refusal = TerabagError.from(error);',
    replace:
      'if (this.#explainedAt > -1 || this.#silentBeats > 0 || this.#transport !== null || this.#pingId > 0) throw error;\n      this.#refusal = TerabagError.from(error);',
    breaks: ['exception', 'one-end'],
  },
  {
    name: 'the link reads the clock of the system',
    file: LINK,
    find: 'this.#pingedAt = clock.now();',
    replace: 'this.#pingedAt = clock.now() + 0 * performance.now();',
    breaks: ['real-time'],
  },
  {
    name: 'replicas are chosen by the chance of the system',
    file: 'src/rpc/replicas/choose.ts',
    find: 'const first = Math.floor(choice.random() * count);',
    replace: 'const first = Math.floor(Math.random() * count);',
    breaks: ['real-time'],
  },
  {
    name: 'a source of endpoints is not closed',
    file: 'src/rpc/replicas/replica-set.ts',
    find: 'this.options.endpoints.close();',
    replace: '',
    breaks: ['leak'],
  },
  {
    name: 'a rejection has no listener',
    file: SERVER,
    find: '(error: unknown) => this.#fail(job, error),\n      )',
    replace: '(error: unknown) => {\n          this.#fail(job, error);\n          throw error;\n        },\n      )',
    breaks: ['unhandled-rejection'],
  },
  {
    name: 'a shard pools what was cancelled',
    file: SERVER,
    find: 'if (this.#waiting.delete(peer, job)) this.#end(job);',
    replace: '',
    breaks: ['cancelled', 'leak', 'exception'],
  },
  {
    name: 'a shard pools what nobody waits for',
    file: SERVER,
    find: 'if (this.#clock.now() < deadlineAt) return;',
    replace: 'if (this.#clock.now() < deadlineAt + 1e9) return;',
    breaks: ['expired'],
  },
  {
    name: 'a shard answers what was cancelled',
    file: SERVER,
    find: 'if (job.cancelled) return;\n',
    replace: '',
    breaks: ['one-answer'],
  },
  {
    name: 'a shard releases an answer before it sends it',
    file: SERVER,
    find: 'const checksum = native.answerChecksum(id, stamp, answer.bytes);',
    replace: 'const checksum = native.answerChecksum(id, stamp, answer.bytes);\n      answer.release();',
    breaks: ['error-code', 'failover', 'liveness', 'answer'],
  },
  {
    name: 'a shard takes as much as comes',
    file: SERVER,
    find: 'if (this.#inFlight > maxInFlight)',
    replace: 'if (this.#inFlight > 1000 * maxInFlight)',
    breaks: ['queue'],
  },
  {
    name: 'a shard ends without ending what it has',
    file: SERVER,
    find: 'this.#transport?.serve(null);\n    if (this.#inFlight > 0) {',
    replace: 'this.#transport?.serve(null);\n    if (this.#inFlight > 1e9) {',
    breaks: ['drain'],
  },
];
