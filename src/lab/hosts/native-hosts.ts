import { loadAddon } from '../../engine/load-addon.js';

/** A host of an emulated network: an interface, in a network namespace of its own or in the one that this process is in. */
export interface NativeHost {
  /** At most 15 bytes, and not there yet. */
  readonly interfaceName: string;
  /** IPv4; the network has 24 bits. */
  readonly address: string;
  readonly ownNamespace: boolean;
}

/** What happens to each Ethernet frame on the way from one host to another. */
export interface NativePathConditions {
  /** One way; at most a minute. */
  readonly delayUs: number;
  /** Give or take, evenly spread; at most delayUs. Frames from one host to another do not overtake each other. */
  readonly jitterUs: number;
  /** Dropped of a million frames, independently. */
  readonly lossPpm: number;
}

/** Frames since the network was opened; one to all hosts counts once for each. */
export interface NativeNetworkCounters {
  readonly accepted: number;
  readonly delivered: number;
  /** Dropped because lossPpm asks for it. */
  readonly lost: number;
  /** Dropped because 32768 frames waited. */
  readonly overflowed: number;
  /** Too short or too long. */
  readonly malformed: number;
  /** Not taken by the interface that they were for. */
  readonly refused: number;
}

/** Hosts on a switch that delays and drops, run by a thread of its own. All of it ends with the process, however that ends. */
export interface NativeHostNetwork {
  /** [sync] One per host: the file descriptor of its namespace in this process, or -1. Not to be closed. */
  namespaces(): number[];
  /** [sync] */
  counters(): NativeNetworkCounters;
  /** [sync] From now on, of the way from one host to another, not of the way back. What is on its way stays so, and is not overtaken. */
  setPath(from: number, to: number, conditions: NativePathConditions): void;
  /** [sync] Ends the thread and removes the interfaces; a namespace ends with the last process in it. */
  close(): void;
}

interface NativeLabAddon {
  /** Linux only, and needs CAP_NET_ADMIN and CAP_SYS_ADMIN: throws with the reason when the network cannot be made. */
  HostNetwork: new (
    hosts: readonly NativeHost[],
    conditions: NativePathConditions,
    /** Of losses and jitter; uint32. */
    seed: number,
  ) => NativeHostNetwork;
}

let addon: NativeLabAddon | null = null;

/** The addon of emulated hosts, which is loaded by the first call: what only serves never loads it. */
export function nativeHosts(): NativeLabAddon {
  addon ??= loadAddon<NativeLabAddon>('terabag_lab');
  return addon;
}
