import { type Context, Reply } from 'zeromq';
import { toZ85 } from './security.js';

/** Who is let in to one server, by the name that its sockets give to it (their ZAP domain). */
export interface Doorkeeper {
  allows(publicKey: string): boolean;
  refused(reason: string): void;
}

const KEY_BYTES = 32;

/** Answers libzmq's questions who is let in (ZAP, rfc.zeromq.org/spec/27) to the sockets of a context of zeromq.js. */
export class Zap {
  readonly #doors = new Map<string, Doorkeeper>();
  #reply: Reply | null = null;
  #last = 0;

  constructor(private readonly context: Context) {}

  /** Returns the domain. */
  async open(doorkeeper: Doorkeeper): Promise<string> {
    const domain = `terabag-${++this.#last}`;
    this.#doors.set(domain, doorkeeper);
    if (this.#reply === null) {
      this.#reply = new Reply({ context: this.context, linger: 0 });
      await this.#reply.bind('inproc://zeromq.zap.01');
      void this.#answer(this.#reply);
    }
    return domain;
  }

  /** Of a server whose sockets have ended. True when nobody is answered any more: the next server needs a context of its own. */
  close(domain: string): boolean {
    this.#doors.delete(domain);
    if (this.#doors.size > 0) return false;
    this.#reply?.close();
    return true;
  }

  async #answer(reply: Reply): Promise<void> {
    for await (const [version, id, domain, address, , mechanism, key] of reply) {
      const sound = version?.toString() === '1.0' && mechanism?.toString() === 'CURVE' && key?.byteLength === KEY_BYTES;
      const publicKey = sound ? toZ85(key) : '';
      const door = this.#doors.get(domain?.toString() ?? '');
      const allowed = sound && door?.allows(publicKey) === true;
      if (!allowed) door?.refused(`key is not allowed: ${publicKey} from ${address?.toString() ?? ''}`);
      await reply.send(['1.0', id ?? '', allowed ? '200' : '400', '', publicKey, '']);
    }
  }
}
