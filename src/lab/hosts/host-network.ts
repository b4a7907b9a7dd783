import { type ChildProcess, execFile, fork } from 'node:child_process';
import { once } from 'node:events';
import { type NetworkInterfaceInfo, networkInterfaces } from 'node:os';
import { promisify } from 'node:util';
import { compiledPath } from '../../compiled-path.js';
import { TerabagError } from '../../errors.js';
import type { NetworkAnswer, NetworkRequest } from './host-network-messages.js';
import type { NativeNetworkCounters, NativePathConditions } from './native-hosts.js';

/** The way from one host to another. */
export interface PathOptions {
  /** One way, ms: a round trip takes twice as long. */
  readonly delayMs: number;
  /** A frame takes delayMs give or take up to so much, evenly spread; frames from one host to another do not overtake each other. Default 0. */
  readonly jitterMs?: number;
  /** Share of the Ethernet frames (up to 1500 bytes of payload) that is dropped, independently of each other; 100: the way is cut. Default 0. */
  readonly lossPercent?: number;
}

/** The way between any two hosts. */
export interface NetworkOptions extends PathOptions {
  /** Seeds losses and jitter: an integer from 0 to 2^32 - 1; default 1. */
  readonly seed?: number;
}

export interface Path {
  readonly from: number;
  readonly to: number;
  readonly path: PathOptions;
}

/** Frames since the network was opened, and what it costs: cpuMs is the CPU time of the process that runs it. */
export interface NetworkCounters extends NativeNetworkCounters {
  readonly cpuMs: number;
}

const LARGEST_NETWORK = 253;
const KILL_MS = 5_000;
let numNetworks = 0;

/**
 * Hosts in network namespaces of their own, on a switch that runs in a process of its own. Host 0 is this process, by an interface in its
 * namespace; the others are numbered from 1. Namespaces have no names and interfaces end with the switch's process, which ends with this
 * one: there is nothing to remove after a crash.
 */
export class HostNetwork {
  #namespaces: readonly number[] = [];
  /** Requests are answered one after another. */
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(
    private readonly child: ChildProcess,
    private readonly prefix: string,
  ) {}

  /** Rejects with the reason when there cannot be such a network here; needs root, mostly, and nsenter (util-linux). */
  static async open(hosts: number, options: NetworkOptions): Promise<HostNetwork> {
    if (hosts > LARGEST_NETWORK) throw new Error(`a network has room for ${LARGEST_NETWORK} hosts, not for ${hosts}`);
    const number = numNetworks++;
    const prefix = freeNetwork(
      Object.values(networkInterfaces()).flatMap((all) => all ?? []),
      process.pid + number,
    );
    const child = fork(compiledPath('lab/hosts/host-network-process.js'), [], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      execArgv: [],
    });
    const network = new HostNetwork(child, prefix);
    try {
      await network.#connectHosts(hosts, `tb${process.pid}-${number % 100}`, options);
    } catch (error) {
      await network.close();
      throw error;
    }
    return network;
  }

  async #connectHosts(hosts: number, interfaceName: string, options: NetworkOptions): Promise<void> {
    const opened = await this.#ask({
      ask: 'open',
      hosts: [
        { interfaceName, address: this.address(0), ownNamespace: false },
        ...Array.from({ length: hosts }, (_, at) => ({ interfaceName: 'eth0', address: this.address(at + 1), ownNamespace: true })),
      ],
      conditions: conditionsOf(options),
      seed: options.seed ?? 1,
    });
    if (opened.answer === 'opened') this.#namespaces = opened.namespaces;
    const [command = '', ...args] = this.enter(hosts);
    await promisify(execFile)(command, [...args, process.execPath, '--version']);
  }

  address(host: number): string {
    return `${this.prefix}.${host + 1}`;
  }

  /** The words before a command line that run it in the namespace of a host. */
  enter(host: number): readonly string[] {
    return ['nsenter', `--net=/proc/${this.child.pid}/fd/${this.#namespaces[host]}`, '--'];
  }

  /** Conditions from now on of ways from one host to another, not of their ways back; what is on its way arrives. Rejects (closed) when the switch has ended. */
  async setPaths(paths: readonly Path[]): Promise<void> {
    const asked = paths.map(({ from, to, path }) => ({ from, to, conditions: conditionsOf(path) }));
    const told = await this.#ask({ ask: 'set-paths', paths: asked });
    if (told.answer !== 'set') throw new Error(`unexpected answer of the switch: ${told.answer}`);
  }

  /** Rejects (closed) when the switch has ended. */
  async counters(): Promise<NetworkCounters> {
    const told = await this.#ask({ ask: 'counters' });
    if (told.answer !== 'counters') throw new Error(`unexpected answer of the switch: ${told.answer}`);
    return { ...told.counters, cpuMs: told.cpuMs };
  }

  /** Ends the switch, and with it the interfaces. */
  async close(): Promise<void> {
    const { child } = this;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    const timer = setTimeout(() => child.kill('SIGKILL'), KILL_MS);
    if (child.connected) child.disconnect();
    await exited.finally(() => clearTimeout(timer));
  }

  #ask(request: NetworkRequest): Promise<NetworkAnswer> {
    const answered = this.#turn.then(() => askOf(this.child, request));
    this.#turn = answered.catch(() => undefined);
    return answered;
  }
}

const conditionsOf = ({ delayMs, jitterMs = 0, lossPercent = 0 }: PathOptions): NativePathConditions => ({
  delayUs: Math.round(delayMs * 1000),
  jitterUs: Math.round(jitterMs * 1000),
  lossPpm: Math.round(lossPercent * 10_000),
});

function askOf(child: ChildProcess, request: NetworkRequest): Promise<NetworkAnswer> {
  return new Promise((resolve, reject) => {
    const onExit = (): void => reject(networkEnded(child));
    if (!child.connected) return onExit();
    child.once('exit', onExit);
    child.once('error', onExit);
    child.once('message', (answer: NetworkAnswer) => {
      child.off('exit', onExit).off('error', onExit);
      if (answer.answer === 'failed') reject(new Error(answer.reason));
      else resolve(answer);
    });
    child.send(request);
  });
}

function networkEnded({ pid = 0, exitCode, signalCode }: ChildProcess): TerabagError {
  const end = signalCode ?? (exitCode === null ? 'channel closed' : `code ${exitCode}`);
  return new TerabagError('closed', `the process of the emulated network ended: ${pid}, ${end}`, { pid, end });
}

/** 198.18.0.0/15 is set aside for benchmarks (RFC 2544): no host of the world is hidden by a network of it. */
const NETWORKS = 512;

/** The first three numbers of a network of 24 bits that no interface is in, looked for from a starting point. */
export function freeNetwork(interfaces: readonly Pick<NetworkInterfaceInfo, 'family' | 'address' | 'netmask'>[], start: number): string {
  const taken = interfaces
    .filter(({ family }) => family === 'IPv4')
    .map(({ address, netmask }) => ({ address: bitsOf(address), mask: (bitsOf(netmask) & 0xffffff00) >>> 0 }));
  for (let tried = 0; tried < NETWORKS; tried++) {
    const number = (start + tried) % NETWORKS;
    const prefix = `198.${18 + (number >> 8)}.${number & 255}`;
    const bits = bitsOf(`${prefix}.0`);
    if (taken.every(({ address, mask }) => ((address ^ bits) & mask) !== 0)) return prefix;
  }
  throw new Error('every network of 198.18.0.0/15 is in use');
}

const bitsOf = (address: string): number => address.split('.').reduce((bits, part) => ((bits << 8) | Number(part)) >>> 0, 0);
