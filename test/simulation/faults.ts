import type { Replica } from './replica.js';

/** What a fault can do. */
export interface FaultyWorld {
  replica(shard: number, replica: number): Replica;
  /** Called in so many ms, unless all is healed before. */
  later(ms: number, call: () => void): void;
  readonly now: number;
  stallMain(ms: number): void;
  /** The process of a replica ends, and starts again in so many ms. */
  restart(replica: Replica, how: 'kill' | 'host' | 'terminate', ms: number, version: number): void;
  abortAll(): void;
  /** So many requests at once, each with that deadline. */
  burst(shard: number, count: number, deadlineMs: number): void;
  refuseConnections(ms: number): void;
  askStats(shard: number, ms: number): void;
  move(replica: Replica): void;
}

/** Where it fails, and how much. */
export interface Extent {
  readonly shard: number;
  readonly replica: number;
  /** How long it lasts. */
  readonly ms: number;
  /** 0 to 1, whatever the fault makes of it. */
  readonly x: number;
}

export interface FaultSpec {
  readonly description: string;
  readonly longestMs: number;
  /** Of what takes a connection or a shard away: more, and nothing would ever work. */
  readonly mostPerSecond?: number;
  readonly apply: (world: FaultyWorld, replica: Replica, extent: Extent) => void;
}

/** A state of the path to a replica, for a while. */
const onPath =
  (during: (path: Replica['path'], x: number, until: number) => void, after: (path: Replica['path']) => void): FaultSpec['apply'] =>
  (world, { path }, { ms, x }) => {
    during(path, x, world.now + ms);
    world.later(ms, () => after(path));
  };

const nothing = (): void => undefined;
/** That shards may serve; main expects the first. */
const VERSIONS = 3;

export const FAULTS = {
  reset: {
    description: 'A connection is reset: what was in flight is lost.',
    longestMs: 1,
    mostPerSecond: 4,
    apply: (_, { transport }) => {
      for (const connection of [...(transport?.connections ?? [])]) connection.reset();
    },
  },
  mute: {
    description: 'Connections stay, and nothing passes on them any more; new ones work.',
    longestMs: 1,
    mostPerSecond: 1,
    apply: (_, { transport }) => {
      for (const connection of transport?.connections ?? []) connection.mute();
    },
  },
  partition: {
    description: 'Nothing passes between main and a replica.',
    longestMs: 4000,
    mostPerSecond: 1,
    apply: onPath((path, _, until) => {
      path.toBlockedUntil = path.fromBlockedUntil = until;
    }, nothing),
  },
  'partition to': {
    description: 'Nothing passes from main to a replica.',
    longestMs: 4000,
    mostPerSecond: 1,
    apply: onPath((path, _, until) => {
      path.toBlockedUntil = until;
    }, nothing),
  },
  'partition from': {
    description: 'Nothing passes from a replica to main.',
    longestMs: 4000,
    mostPerSecond: 1,
    apply: onPath((path, _, until) => {
      path.fromBlockedUntil = until;
    }, nothing),
  },
  loss: {
    description: 'Segments are lost, and sent again by TCP.',
    longestMs: 1000,
    mostPerSecond: 20,
    apply: onPath(
      (path, x) => {
        path.lossChance = 0.3 * x;
      },
      (path) => {
        path.lossChance = 0;
      },
    ),
  },
  delay: {
    description: 'Messages take longer, each its own time.',
    longestMs: 1000,
    mostPerSecond: 10,
    apply: onPath(
      (path, x) => {
        path.delayMs = 200 * x;
        path.jitterMs = 50 * x;
      },
      (path) => Object.assign(path, path.healthy),
    ),
  },
  refuse: {
    description: 'The queue of the socket is full.',
    longestMs: 500,
    apply: onPath((path, _, until) => {
      path.refusingUntil = until;
    }, nothing),
  },
  replay: {
    description: 'Answers come twice, and answers of others come in between.',
    longestMs: 1000,
    apply: onPath(
      (path, x) => {
        path.replayChance = x;
      },
      (path) => {
        path.replayChance = 0;
      },
    ),
  },
  false: {
    description: 'Answers are not what the shard gave: flipped bits, other lengths, ids and versions, garbage.',
    longestMs: 1000,
    apply: onPath(
      (path, x) => {
        path.falseChance = x;
      },
      (path) => {
        path.falseChance = 0;
      },
    ),
  },
  crash: {
    description: 'A shard is killed, and starts again.',
    longestMs: 2000,
    mostPerSecond: 2,
    apply: (world, replica, { ms }) => world.restart(replica, 'kill', ms, 0),
  },
  'host crash': {
    description: 'A host goes without a word, and comes back.',
    longestMs: 4000,
    mostPerSecond: 1,
    apply: (world, replica, { ms }) => world.restart(replica, 'host', ms, 0),
  },
  'other version': {
    description: 'A shard is killed, and starts again with another version.',
    longestMs: 2000,
    mostPerSecond: 1,
    apply: (world, replica, { ms, x }) => world.restart(replica, 'kill', ms, 1 + Math.floor(x * (VERSIONS - 1))),
  },
  terminate: {
    description: 'A shard drains, ends, and starts again.',
    longestMs: 2000,
    mostPerSecond: 2,
    apply: (world, replica, { ms }) => world.restart(replica, 'terminate', ms, 0),
  },
  stop: {
    description: 'The process of a shard is stopped by a signal, and continued.',
    longestMs: 4000,
    mostPerSecond: 1,
    apply: (world, replica, { ms }) => {
      replica.process?.stall(ms);
      replica.stop();
      world.later(ms, () => replica.proceed());
    },
  },
  'stall shard': {
    description: 'The event loop of a shard stands still.',
    longestMs: 1000,
    mostPerSecond: 10,
    apply: (_, { process }, { ms }) => process?.stall(ms),
  },
  'stall main': {
    description: 'The event loop of main stands still.',
    longestMs: 500,
    mostPerSecond: 20,
    apply: (world, _, { ms }) => world.stallMain(ms),
  },
  slow: {
    description: 'A shard takes up to 300 times as long to pool.',
    longestMs: 2000,
    mostPerSecond: 4,
    apply: (world, replica, { ms, x }) => {
      replica.slowness = 300 ** x;
      world.later(ms, () => {
        replica.slowness = 1;
      });
    },
  },
  'abort storm': {
    description: 'All requests in flight are aborted.',
    longestMs: 1,
    mostPerSecond: 20,
    apply: (world) => world.abortAll(),
  },
  'deadline storm': {
    description: 'Many requests come at once, with hardly any time.',
    longestMs: 1,
    mostPerSecond: 50,
    apply: (world, _, { shard, x }) => world.burst(shard, 30, 1 + 4 * x),
  },
  burst: {
    description: 'Many requests come at once.',
    longestMs: 1,
    mostPerSecond: 20,
    apply: (world, _, { shard, x }) => world.burst(shard, Math.ceil(100 * x), 100),
  },
  'no descriptors': {
    description: 'Connections cannot be opened.',
    longestMs: 1000,
    mostPerSecond: 2,
    apply: (world, _, { ms }) => world.refuseConnections(ms),
  },
  stats: {
    description: 'Main asks the shard for its stats, as an operator does at any time.',
    longestMs: 1000,
    apply: (world, _, { shard, ms }) => world.askStats(shard, Math.ceil(ms)),
  },
  move: {
    description: 'A shard ends, and starts at another address.',
    longestMs: 1000,
    mostPerSecond: 1,
    apply: (world, replica) => world.move(replica),
  },
} as const satisfies Record<string, FaultSpec>;

export type FaultKind = keyof typeof FAULTS;

/** Something that fails. */
export interface Fault extends Extent {
  readonly kind: FaultKind;
  /** Virtual ms. */
  readonly at: number;
}

export const applyFault = (world: FaultyWorld, fault: Fault): void =>
  (FAULTS[fault.kind] as FaultSpec).apply(world, world.replica(fault.shard, fault.replica), fault);
