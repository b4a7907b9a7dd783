import { isIP } from 'node:net';
import { type Clock, systemClock } from '../clock.js';
import { TerabagError } from '../errors.js';
import { type Random, systemRandom } from '../random.js';
import { constantEndpoints, type EndpointSource } from '../rpc/replicas/endpoint-source.js';
import { canonicalEndpoint, isName, parseEndpoint, tcpAddress } from './endpoint.js';
import { readEndpointFile } from './endpoint-file.js';
import { type Names, systemNames } from './names.js';

export interface ResolveOptions {
  /** Default: as all programs of this machine resolve names. */
  readonly names?: Names;
  readonly clock?: Clock;
  readonly random?: Random;
  /** An endpoint cannot be resolved, for a reason that is new: what was known of it before stays in use. */
  readonly onProblem?: (problem: TerabagError) => void;
  /** Called each time that an endpoint could not be resolved. */
  readonly onFailure?: () => void;
}

/** Names are resolved anew this often, give or take JITTER of it: many main shards do not ask at once. */
const NAME_MS = 5_000;
const FILE_MS = 1_000;
const UNKNOWN_MS = 1_000;
const JITTER = 0.2;
/** However often it is asked to refresh, an endpoint is not resolved more often. */
const LEAST_MS = 500;
/** More is a mistake: a client has a connection for each. */
const MAX_FOUND = 1024;

/**
 * The addresses of a shard's endpoints, kept up to date until closed. What cannot be resolved keeps the addresses that were last known. Throws
 * invalid_argument for what is no endpoint.
 */
export function resolveEndpoints(endpoints: readonly string[], options: ResolveOptions = {}): EndpointSource {
  for (const endpoint of endpoints) {
    if (parseEndpoint(endpoint) === null)
      throw new TerabagError('invalid_argument', `no endpoint: ${endpoint}`, { field: 'endpoints', endpoint });
  }
  if (endpoints.every((endpoint) => parseEndpoint(endpoint)?.kind === 'address')) return constantEndpoints(endpoints);
  return new ResolvedEndpoints(endpoints, options);
}

/** What an endpoint stands for. */
interface Place {
  /** Whether all was tried once. */
  readonly settled: boolean;
  readonly addresses: readonly string[];
  readonly problem: TerabagError | null;
  refresh(): void;
  close(): void;
}

const literal = (address: string): Place => ({
  settled: true,
  addresses: [address],
  problem: null,
  refresh: () => undefined,
  close: () => undefined,
});

class ResolvedEndpoints implements EndpointSource {
  addresses: readonly string[] = [];
  readonly #places: readonly Place[];
  #changed: () => void = () => undefined;

  constructor(endpoints: readonly string[], options: ResolveOptions) {
    this.#places = endpoints.map((endpoint) => placeOf(endpoint, options, () => this.#update()));
    this.#update();
  }

  get problem(): TerabagError | null {
    return firstProblem(this.#places);
  }

  watch(changed: () => void): void {
    this.#changed = changed;
  }

  refresh(): void {
    for (const place of this.#places) place.refresh();
  }

  close(): void {
    this.#changed = () => undefined;
    for (const place of this.#places) place.close();
  }

  #update(): void {
    const addresses = union(this.#places);
    if (isSame(addresses, this.addresses)) return;
    this.addresses = addresses;
    this.#changed();
  }
}

function placeOf(endpoint: string, options: ResolveOptions, changed: () => void): Place {
  const parsed = parseEndpoint(endpoint);
  if (parsed === null || parsed.kind === 'address') return literal(endpoint);
  const { names = systemNames } = options;
  const looking = { endpoint, changed, options };
  switch (parsed.kind) {
    case 'name':
      return new Lookup({ ...looking, everyMs: NAME_MS, look: async () => literals(await names.addresses(parsed.host), parsed.port) });
    case 'service':
      return new Lookup({
        ...looking,
        everyMs: NAME_MS,
        look: async () => (await names.services(parsed.name)).map(target),
      });
    case 'file':
      return new Lookup({ ...looking, everyMs: FILE_MS, look: () => readEndpointFile(parsed.path) });
  }
}

function literals(addresses: readonly string[], port: number): string[] {
  const strange = addresses.find((address) => isIP(address) === 0);
  if (strange !== undefined) throw new Error(`no IP address: ${strange}`);
  return addresses.map((address) => tcpAddress(address, port));
}

function target({ name, port }: { readonly name: string; readonly port: number }): string {
  if (!isName(name)) throw new Error(`no host: ${name}`);
  return tcpAddress(name, port);
}

interface LookupOptions {
  readonly endpoint: string;
  readonly everyMs: number;
  /** What the endpoint stands for: addresses, or endpoints that are resolved in their turn. */
  readonly look: () => Promise<readonly string[]>;
  readonly changed: () => void;
  readonly options: ResolveOptions;
}

/** An endpoint that is looked up again and again. */
class Lookup implements Place {
  addresses: readonly string[] = [];
  #problem: TerabagError | null = null;
  #found: ReadonlyMap<string, Place> = new Map();
  #isTried = false;
  #isClosed = false;
  /** When the latest attempt began, and whether it goes on. */
  #startedAt = 0;
  #isLooking = false;
  /** Whether it was asked to refresh while it was looking. */
  #again = false;
  #cancel: () => void = () => undefined;
  readonly #clock: Clock;

  constructor(private readonly lookup: LookupOptions) {
    this.#clock = lookup.options.clock ?? systemClock;
    this.#look();
  }

  get problem(): TerabagError | null {
    return this.#problem ?? firstProblem(this.#found.values());
  }

  get settled(): boolean {
    return this.#isTried && [...this.#found.values()].every(({ settled }) => settled);
  }

  refresh(): void {
    if (this.#isLooking) this.#again = true;
    else this.#lookAt(this.#startedAt + LEAST_MS);
    for (const place of this.#found.values()) place.refresh();
  }

  close(): void {
    this.#isClosed = true;
    this.#cancel();
    for (const place of this.#found.values()) place.close();
  }

  #lookAt(at: number): void {
    this.#cancel();
    this.#cancel = this.#clock.after(Math.max(0, at - this.#clock.now()), () => this.#look(), 'background');
  }

  #look(): void {
    this.#startedAt = this.#clock.now();
    this.#isLooking = true;
    this.#again = false;
    const looked = this.lookup.look().then(checked);
    looked.then(
      (found) => this.#ended(() => this.#take(found)),
      (error: unknown) => this.#ended(() => this.#fail(error)),
    );
  }

  #ended(tell: () => void): void {
    if (this.#isClosed) return;
    this.#isTried = true;
    this.#isLooking = false;
    tell();
    this.#lookAt(this.#again ? this.#startedAt + LEAST_MS : this.#clock.now() + this.#pauseMs());
    this.#update();
  }

  #pauseMs(): number {
    const { everyMs, options } = this.lookup;
    // Somebody waits for a shard of which nothing is known yet.
    const ms = this.#found.size === 0 ? Math.min(everyMs, UNKNOWN_MS) : everyMs;
    return Math.round(ms * (1 + JITTER * (2 * (options.random ?? systemRandom)() - 1)));
  }

  #take(found: readonly string[]): void {
    const { options } = this.lookup;
    const before = this.#found;
    this.#found = new Map(found.map((one) => [one, before.get(one) ?? placeOf(one, options, () => this.#update())]));
    for (const [one, place] of before) if (!this.#found.has(one)) place.close();
    this.#problem = null;
  }

  #fail(error: unknown): void {
    const { endpoint, options } = this.lookup;
    const problem = unresolved(endpoint, error, this.addresses.length);
    const isNew = this.#problem?.message !== problem.message;
    this.#problem = problem;
    options.onFailure?.();
    if (isNew) options.onProblem?.(problem);
  }

  /** Addresses that nothing has taken the place of stay. */
  #update(): void {
    if (this.#isClosed || !this.settled) return;
    const addresses = union(this.#found.values());
    if (addresses.length > 0) this.addresses = addresses;
    this.lookup.changed();
  }
}

function checked(found: readonly string[]): readonly string[] {
  if (found.length === 0) throw new Error('it has no address');
  if (found.length > MAX_FOUND) throw new Error(`it has more than ${MAX_FOUND} addresses, ${found.length}`);
  return found;
}

function unresolved(endpoint: string, error: unknown, kept: number): TerabagError {
  const { message, code } = error as { readonly message: string; readonly code?: string };
  const reason = error instanceof TerabagError ? String(error.details['reason'] ?? error.code) : (code ?? 'internal');
  const meanwhile = kept === 0 ? 'no address of it is known' : `the last ${kept} addresses that were known are used`;
  return new TerabagError(
    'shard_unavailable',
    `endpoint cannot be resolved (${message}), ${meanwhile}: ${endpoint}`,
    { endpoint, reason, kept },
    { cause: error },
  );
}

const firstProblem = (places: Iterable<Place>): TerabagError | null => {
  for (const { problem } of places) if (problem !== null) return problem;
  return null;
};

/** In an order of their own: DNS gives them in any. */
/** One that is spelled in two ways is there once. */
function union(places: Iterable<Place>): string[] {
  const addresses = [...places].flatMap((place) => place.addresses);
  return [...new Map(addresses.map((address) => [canonicalEndpoint(address), address])).values()].sort();
}

const isSame = (a: readonly string[], b: readonly string[]): boolean => a.length === b.length && a.every((value, at) => value === b[at]);
