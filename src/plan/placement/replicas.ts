import { canonicalHost, MAX_PORT } from '../../endpoints/endpoint.js';
import { TerabagError } from '../../errors.js';
import type { ModelSpec } from '../../model/spec.js';
import type { Plan } from '../file/plan.js';
import { heldByShards } from './bytes.js';

/** Where the replicas of a plan's shards may be. */
export interface ReplicaOptions {
  /** Of each shard; default 1. */
  readonly replicas?: number;
  /** One for each replica of each shard; default loopback from port 7400 up. */
  readonly endpoints?: readonly string[];
  /** By a name, such as zone: what each of the endpoints has of it, in their order. Replicas of one shard differ in it, as they do in their hosts. */
  readonly spread?: Readonly<Record<string, readonly string[]>>;
  /** Bytes of tables that the replicas on one host may hold together. */
  readonly hostLimitBytes?: number;
}

/** A place for one replica. */
interface Seat {
  readonly endpoint: string;
  /** In the order given. */
  readonly at: number;
  /** What replicas of one shard must not have in common; host first, then by name. */
  readonly traits: readonly (string | null)[];
}

/** Swaps are tried for so many replicas; beyond, what cannot be dealt out is refused. */
const MAX_SWAPPED = 1024;
const LOOPBACK = /^(127\.|::1$|localhost$)/;
const FIRST_PORT = 7400;
/** Ports of loopback from the first. */
export const MOST_DEFAULTS = MAX_PORT - FIRST_PORT + 1;
export const MAX_REPLICAS = 64;

/** Null of a place without a host: on this machine alone, where replicas are for tries, or resolved when it is used. */
export function hostOf(endpoint: string): string | null {
  const host = canonicalHost(endpoint);
  return host === null || LOOPBACK.test(host) ? null : host;
}

const defaultEndpoints = (count: number): string[] => Array.from({ length: count }, (_, at) => `tcp://127.0.0.1:${FIRST_PORT + at}`);

/**
 * Gives each shard of the plan its endpoints: replicas of one shard differ in their hosts (but on loopback) and in each trait of spread, and a host's
 * replicas fit its limit together. Refuses (does_not_fit) what cannot be, with by how much.
 */
export function placeReplicas(plan: Plan, spec: ModelSpec, options: ReplicaOptions): Plan {
  const { replicas = 1 } = options;
  const shards = plan.shards.length;
  const { endpoints = defaultEndpoints(shards * replicas), spread = {}, hostLimitBytes = Number.POSITIVE_INFINITY } = options;
  const names = ['host', ...Object.keys(spread)];
  const seats = endpoints.map(
    (endpoint, at): Seat => ({ endpoint, at, traits: [hostOf(endpoint), ...Object.values(spread).map((of) => of[at] ?? null)] }),
  );
  const bytes = bytesOfShards(plan, spec);
  const seating = new Seating(dealt(choose(seats, shards, replicas, names), shards), bytes, hostLimitBytes);
  seating.improve();
  seating.check(names, plan);
  return {
    ...plan,
    shards: plan.shards.map(({ name }, shard) => ({ name, endpoints: seating.of(shard).map(({ endpoint }) => endpoint) })),
  };
}

function bytesOfShards(plan: Plan, spec: ModelSpec): number[] {
  const held = heldByShards(plan, spec);
  return plan.shards.map(({ name }) => (held.get(name) ?? []).reduce((sum, { bytes }) => sum + bytes, 0));
}

/** As many as are needed, the first; of those that have a trait in common, no more than there are shards: one shard takes one. */
function choose(seats: readonly Seat[], shards: number, replicas: number, names: readonly string[]): Seat[] {
  if (replicas === 1) return seats.slice(0, shards);
  const taken = new Map<string, number>();
  const countOf = (trait: number, value: string): number => taken.get(`${trait} ${value}`) ?? 0;
  const chosen: Seat[] = [];
  for (const seat of seats) {
    const given = seat.traits.flatMap((value, trait) => (value === null ? [] : [{ trait, value }]));
    if (chosen.length === shards * replicas) break;
    if (given.some(({ trait, value }) => countOf(trait, value) >= shards)) continue;
    chosen.push(seat);
    for (const { trait, value } of given) taken.set(`${trait} ${value}`, countOf(trait, value) + 1);
  }
  const short = shards * replicas - chosen.length;
  if (short > 0) throw tooAlike(seats, shards, short, names);
  return chosen;
}

function tooAlike(seats: readonly Seat[], shards: number, short: number, names: readonly string[]): TerabagError {
  const counts = names.map((name, trait) => ({ name, ...mostCommon(seats.map(({ traits }) => traits[trait] ?? null)) }));
  const [worst] = counts.sort((a, b) => b.count - a.count);
  const { name = '', value = '', count = 0 } = worst ?? {};
  return new TerabagError(
    'does_not_fit',
    `replicas cannot be kept apart: ${count} of ${seats.length} endpoints are in ${name} ${value}, of which ${shards} ${shards === 1 ? 'shard' : 'shards'} can use ${shards}, short by ${short}`,
    { field: name === 'host' ? 'endpoints' : `spread.${name}`, value, count, room: shards, short },
  );
}

function mostCommon(values: readonly (string | null)[]): { value: string; count: number } {
  const counts = new Map<string, number>();
  for (const value of values) if (value !== null) counts.set(value, (counts.get(value) ?? 0) + 1);
  let most = { value: '', count: 0 };
  for (const [value, count] of counts) if (count > most.count) most = { value, count };
  return most;
}

/**
 * Dealt out like cards that are sorted by the trait with the fewest values, then the next: of those that are alike there are no more than shards, so
 * that each goes to another. Where traits lie within each other, as hosts in zones, no two of a shard are alike then.
 */
function dealt(seats: readonly Seat[], shards: number): Seat[][] {
  const values = (trait: number): number => new Set(seats.map(({ traits }) => traits[trait])).size;
  const order = (seats[0]?.traits ?? []).map((_, trait) => trait).sort((a, b) => values(a) - values(b));
  const byTraits = (a: Seat, b: Seat): number => {
    for (const trait of order) {
      const [left, right] = [a.traits[trait] ?? '', b.traits[trait] ?? ''];
      if (left !== right) return left < right ? -1 : 1;
    }
    return a.at - b.at;
  };
  // Without traits that bind, replicas of a shard stand side by side, and sole ones in their order.
  const apart = seats.length > shards && seats.some(({ traits }) => traits.some((value) => value !== null));
  const hands = Array.from({ length: shards }, (): Seat[] => []);
  const sorted = apart ? [...seats].sort(byTraits) : seats;
  for (const [at, seat] of sorted.entries()) hands[apart ? at % shards : Math.floor((at * shards) / seats.length)]?.push(seat);
  return hands;
}

/** Which shard sits where, improved by swaps. */
class Seating {
  readonly #hostBytes = new Map<string, number>();

  constructor(
    private readonly hands: readonly Seat[][],
    private readonly bytes: readonly number[],
    private readonly limitBytes: number,
  ) {
    for (const [shard, hand] of hands.entries()) for (const seat of hand) this.#add(seat, bytes[shard] as number);
  }

  of(shard: number): Seat[] {
    return [...(this.hands[shard] as Seat[])].sort((a, b) => a.at - b.at);
  }

  #add({ traits: [host] }: Seat, bytes: number): void {
    if (host != null) this.#hostBytes.set(host, (this.#hostBytes.get(host) ?? 0) + bytes);
  }

  /** Pairs of a shard's replicas that are alike. */
  #alike(shard: number): number {
    const hand = this.hands[shard] as Seat[];
    let pairs = 0;
    for (const [a, seat] of hand.entries())
      for (const other of hand.slice(a + 1))
        if (seat.traits.some((value, trait) => value !== null && value === other.traits[trait])) pairs++;
    return pairs;
  }

  #excess(seat: Seat): number {
    const [host] = seat.traits;
    return host == null ? 0 : Math.max(0, (this.#hostBytes.get(host) ?? 0) - this.limitBytes);
  }

  get #isGood(): boolean {
    return (
      this.hands.every((_, shard) => this.#alike(shard) === 0) && [...this.#hostBytes.values()].every((bytes) => bytes <= this.limitBytes)
    );
  }

  /** Swaps replicas of two shards as long as fewer are alike, or as many, and hosts are over their limit by less. */
  improve(): void {
    if (this.#isGood || this.hands.flat().length > MAX_SWAPPED) return;
    for (let isBetter = true; isBetter; ) {
      isBetter = false;
      for (let a = 0; a < this.hands.length; a++) for (let b = a + 1; b < this.hands.length; b++) if (this.#swapAny(a, b)) isBetter = true;
    }
  }

  #swapAny(a: number, b: number): boolean {
    const [left, right] = [this.hands[a] as Seat[], this.hands[b] as Seat[]];
    for (let i = 0; i < left.length; i++) {
      for (let j = 0; j < right.length; j++) {
        const before = this.#cost(a, b, left[i] as Seat, right[j] as Seat);
        this.#swap(a, i, b, j);
        const after = this.#cost(a, b, left[i] as Seat, right[j] as Seat);
        if (after.alike < before.alike || (after.alike === before.alike && after.excess < before.excess)) return true;
        this.#swap(a, i, b, j);
      }
    }
    return false;
  }

  #cost(a: number, b: number, one: Seat, other: Seat): { alike: number; excess: number } {
    const sameHost = one.traits[0] === other.traits[0];
    return { alike: this.#alike(a) + this.#alike(b), excess: this.#excess(one) + (sameHost ? 0 : this.#excess(other)) };
  }

  #swap(a: number, i: number, b: number, j: number): void {
    const [left, right] = [this.hands[a] as Seat[], this.hands[b] as Seat[]];
    const [one, other] = [left[i] as Seat, right[j] as Seat];
    const [ofA, ofB] = [this.bytes[a] as number, this.bytes[b] as number];
    this.#add(one, ofB - ofA);
    this.#add(other, ofA - ofB);
    left[i] = other;
    right[j] = one;
  }

  check(names: readonly string[], plan: Plan): void {
    for (const [shard, { name }] of plan.shards.entries()) {
      const hand = this.hands[shard] as Seat[];
      for (const [trait, what] of names.entries()) {
        const { value, count } = mostCommon(hand.map(({ traits }) => traits[trait] ?? null));
        if (count < 2) continue;
        throw new TerabagError(
          'does_not_fit',
          `replicas cannot be kept apart: ${name} has ${count} in ${what} ${value}, short by ${count - 1}`,
          {
            ...{ field: what === 'host' ? 'endpoints' : `spread.${what}`, shard: name, value, short: count - 1 },
          },
        );
      }
    }
    for (const [host, need] of this.#hostBytes) {
      if (need <= this.limitBytes) continue;
      const room = this.limitBytes;
      const message = `replicas do not fit on a host: ${host} would hold ${need} bytes, there is room for ${room}, short by ${need - room}`;
      throw new TerabagError('does_not_fit', message, { host, need, room });
    }
  }
}
