import type { ShardHosts } from '../../src/index.js';
import { HostNetwork, type PathOptions } from '../../src/lab/hosts/host-network.js';

const SOUND: PathOptions = { delayMs: 0 };
const CUT: PathOptions = { delayMs: 0, lossPercent: 100 };

/** Main is host 0, in this process; processes of shards are on the others. Conditions can change while all of them run. */
export class ChaosNetwork {
  private constructor(
    readonly network: HostNetwork,
    private readonly numHosts: number,
  ) {}

  static async open(numHosts: number, seed: number): Promise<ChaosNetwork> {
    return new ChaosNetwork(await HostNetwork.open(numHosts, { ...SOUND, seed }), numHosts);
  }

  /** Of the processes of a launch, in its order. */
  get hosts(): ShardHosts {
    const { network } = this;
    return {
      addressed: true,
      host: (process) => ({ address: network.address(1 + process), command: network.enter(1 + process), adopt: () => undefined }),
      // The network is closed when the cluster on it has stopped.
      close: async () => undefined,
    };
  }

  /** Both ways between main and a host. */
  between(host: number, path: PathOptions): Promise<void> {
    return this.network.setPaths([
      { from: 0, to: host, path },
      { from: host, to: 0, path },
    ]);
  }

  /** Both ways between main and all hosts. */
  async everywhere(path: PathOptions): Promise<void> {
    for (let host = 1; host <= this.numHosts; host++) await this.between(host, path);
  }

  cut(host: number): Promise<void> {
    return this.between(host, CUT);
  }

  cutOneWay(from: number, to: number): Promise<void> {
    return this.network.setPaths([{ from, to, path: CUT }]);
  }

  heal(host: number): Promise<void> {
    return this.between(host, SOUND);
  }

  close(): Promise<void> {
    return this.network.close();
  }
}
