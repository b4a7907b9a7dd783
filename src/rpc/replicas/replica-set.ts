import type { Clock } from '../../clock.js';
import { TerabagError } from '../../errors.js';
import type { RpcCounts } from '../../observe/counters.js';
import type { Random } from '../../random.js';
import { type Connect, type ExpectedPeer, type PooledMessage, ShardLink } from '../link.js';
import type { Lent } from '../transport/buffer-pool.js';
import type { Attempt } from './call.js';
import { chooseReplica } from './choose.js';
import type { EndpointSource } from './endpoint-source.js';
import { Replica } from './replica.js';

export interface ReplicaSetOptions {
  readonly peer: ExpectedPeer;
  readonly endpoints: EndpointSource;
  readonly connect: Connect;
  readonly clock: Clock;
  readonly random: Random;
  readonly nextId: () => number;
  readonly counts: Record<keyof RpcCounts, number>;
  readonly events: ReplicaEvents;
}

/** What becomes of attempts, and of those who could take some. */
export interface ReplicaEvents {
  /** A replica takes requests. */
  ready(): void;
  /** A replica takes no requests for now, and will not answer these. */
  down(replica: Replica<Attempt>, lost: readonly Attempt[]): void;
  answered(attempt: Attempt, answer: PooledMessage, message: Lent, receivedAt: number): void;
  failed(attempt: Attempt, error: TerabagError): void;
  /** The answer cannot be used. */
  unsound(attempt: Attempt, error: TerabagError): void;
  /** The replica sent something that answers nothing. */
  malformed(replica: Replica<Attempt>): void;
}

const NONE: ReadonlyMap<Replica<Attempt>, TerabagError> = new Map();

/** The replicas of a shard: a link to each endpoint that there is, and to those that there were as long as somebody waits for their answers. */
export class ReplicaSet {
  #replicas: readonly Replica<Attempt>[] = [];

  /** Throws what connect throws: an endpoint that cannot be used at all. */
  constructor(private readonly options: ReplicaSetOptions) {
    this.#update();
    const refused = this.#replicas.find(({ link }) => link.refusal !== null)?.link.refusal;
    if (refused) {
      this.close(refused);
      throw refused;
    }
    options.endpoints.watch(() => this.#update());
  }

  get all(): readonly Replica<Attempt>[] {
    return this.#replicas;
  }

  /** Those whose endpoints are the shard's, in their order. */
  get listed(): readonly Replica<Attempt>[] {
    const { addresses } = this.options.endpoints;
    const place = ({ link }: Replica<Attempt>): number => addresses.indexOf(link.endpoint);
    return this.#replicas.filter(({ listed }) => listed).sort((one, other) => place(one) - place(other));
  }

  /** Whether some replica takes requests. */
  get ready(): boolean {
    for (const { link } of this.#replicas) if (link.ready) return true;
    return false;
  }

  /** The one that a request should go to now; null when none takes any. */
  choose(now: number, except: Pick<typeof NONE, 'has'> = NONE): Replica<Attempt> | null {
    const [only] = this.#replicas;
    if (this.#replicas.length === 1 && only !== undefined && except === NONE) return only.link.ready ? only : null;
    return chooseReplica(this.#replicas, { now, random: this.options.random, except });
  }

  /** Whether one that is away now, and not for what it serves, may be able to later. */
  mayReturn(failures: typeof NONE): boolean {
    return this.#replicas.some(
      (replica) => replica.listed && !replica.link.ready && !failures.has(replica) && replica.link.why.code === 'shard_unavailable',
    );
  }

  /** Why none can serve: of each replica what it answered, or why it takes no requests. */
  why(failures: typeof NONE = NONE): TerabagError {
    const { endpoints, peer } = this.options;
    if (this.#replicas.length === 0) {
      const reason = endpoints.problem ? ` (${endpoints.problem.message})` : '';
      const details = { ...endpoints.problem?.details, shard: peer.name };
      return new TerabagError('shard_unavailable', `no endpoint of the shard is known${reason}: ${peer.name}`, details);
    }
    const reasons: Reason[] = [];
    for (const replica of this.#replicas) {
      const { link, listed } = replica;
      const error = failures.get(replica) ?? (link.ready || !listed ? null : link.why);
      if (error !== null) reasons.push({ endpoint: link.endpoint, error });
    }
    return reasonsTogether(peer.name, reasons);
  }

  close(why: TerabagError): void {
    this.options.endpoints.close();
    for (const { link } of this.#replicas) link.close(why);
  }

  /** Closes the links to endpoints that are gone, once nobody waits for their answers and others can serve. */
  closeRetired(): void {
    if (this.#replicas.every(({ listed }) => listed)) return;
    const served = this.#replicas.some(({ listed, link }) => listed && link.ready);
    this.#replicas = this.#replicas.filter(({ listed, link }) => {
      if (listed || link.inFlight > 0 || (link.ready && !served)) return true;
      link.close(new TerabagError('closed', `the endpoint is none of the shard's any more: ${link.endpoint}`));
      return false;
    });
  }

  #update(): void {
    const addresses = new Set(this.options.endpoints.addresses);
    const kept = this.#replicas.map((replica) => {
      replica.listed = addresses.delete(replica.link.endpoint);
      return replica;
    });
    this.#replicas = [...kept, ...[...addresses].map((endpoint) => this.#open(endpoint))];
    this.closeRetired();
  }

  #open(endpoint: string): Replica<Attempt> {
    const { peer, connect, clock, nextId, counts, events, endpoints } = this.options;
    const link = new ShardLink<Attempt>({
      ...{ peer, endpoint, connect, clock, nextId, counts },
      handlers: {
        ready: () => {
          this.closeRetired();
          events.ready();
        },
        down: (lost) => {
          endpoints.refresh();
          events.down(replica, lost);
          this.closeRetired();
        },
        unreachable: () => endpoints.refresh(),
        answered: events.answered,
        failed: events.failed,
        unsound: events.unsound,
        malformed: () => events.malformed(replica),
      },
    });
    const replica = new Replica<Attempt>(link, clock.now());
    return replica;
  }
}

interface Reason {
  readonly endpoint: string;
  readonly error: TerabagError;
}

function reasonsTogether(shard: string, reasons: readonly Reason[]): TerabagError {
  const [first, ...others] = reasons;
  if (first === undefined)
    return new TerabagError('shard_unavailable', `the replica that was asked is lost, and the retry budget is used up: ${shard}`, {
      shard,
    });
  if (others.length === 0) return first.error;
  const code = others.every(({ error }) => error.code === first.error.code) ? first.error.code : 'shard_unavailable';
  const each = reasons.map(({ endpoint, error }) => `${endpoint}: ${error.message} (${error.code})`).join('; ');
  return new TerabagError(code, `no replica of the shard can serve: ${shard}; ${each}`, {
    shard,
    endpoint: reasons.map(({ endpoint }) => endpoint).join(', '),
  });
}
