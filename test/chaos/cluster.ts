import {
  type Cluster,
  type ConnectOptions,
  connect,
  type LaunchOptions,
  launchCluster,
  type Plan,
  type ShardEvent,
  type ShardedPredictor,
} from '../../src/index.js';
import { capacityPlan } from '../reference/plans.js';
import type { Stage } from './case.js';
import type { ChaosNetwork } from './network.js';
import { signalTo, within } from './processes.js';
import type { ServedModel } from './served-model.js';

export interface ClusterOptions extends Partial<LaunchOptions> {
  readonly model?: ServedModel;
  readonly shards?: number;
  /** Processes of each shard; default 1. */
  readonly replicas?: number;
  /** Each process on a host of its own. */
  readonly network?: ChaosNetwork;
  readonly plan?: Plan;
}

export interface TimedEvent extends ShardEvent {
  /** performance.now() time. */
  readonly at: number;
}

/** A plan whose shards have so many replicas each; where they listen is found out by the launch. */
const withReplicas = (plan: Plan, replicas: number): Plan => ({
  ...plan,
  shards: plan.shards.map(({ name }, shard) => ({
    name,
    endpoints: Array.from({ length: replicas }, (_, replica) => `tcp://127.0.0.1:${1 + shard * replicas + replica}`),
  })),
});

export class ChaosCluster {
  private constructor(
    private readonly cluster: Cluster,
    readonly events: readonly TimedEvent[],
    private readonly replicas: number,
  ) {}

  /** Stopped at the end of the case. */
  static async start(stage: Stage, options: ClusterOptions = {}): Promise<ChaosCluster> {
    const { model = stage.model, shards = 2, replicas = 1, network, plan = capacityPlan(model.spec, shards), ...launch } = options;
    const events: TimedEvent[] = [];
    const cluster = await launchCluster(withReplicas(plan, replicas), {
      bundle: model.dir,
      ephemeralPorts: true,
      logLevel: 'silent',
      drainMs: 1000,
      signal: stage.signal,
      ...launch,
      ...(network && { hosts: network.hosts }),
      onEvent: (event) => {
        events.push({ ...event, at: performance.now() });
        launch.onEvent?.(event);
      },
    });
    stage.defer(() => cluster.stop());
    return new ChaosCluster(cluster, events, replicas);
  }

  get plan(): Plan {
    return this.cluster.plan;
  }

  endpoint(shard: number, replica = 0): string {
    return this.plan.shards[shard]?.endpoints[replica] ?? '';
  }

  /** Of those that run now. */
  pid(shard: number, replica = 0): number {
    return this.cluster.shards[shard * this.replicas + replica]?.pid ?? 0;
  }

  /** Its number in a ChaosNetwork. */
  hostOf(shard: number, replica = 0): number {
    return 1 + shard * this.replicas + replica;
  }

  get pids(): number[] {
    return this.cluster.shards.map(({ pid }) => pid);
  }

  signal(signal: NodeJS.Signals, shard: number, replica = 0): void {
    signalTo(this.pid(shard, replica), signal);
  }

  /** When a replica said that it is ready, after a point in time; waits for that. Infinity when it does not. */
  async readyAfter(after: number, shard: number, replica = 0, ms = 20_000): Promise<number> {
    const name = this.plan.shards[shard]?.name;
    const found = (): TimedEvent | undefined =>
      this.events.find((event) => event.at >= after && event.what === 'ready' && event.shard === name && event.replica === replica);
    await within(ms, () => found() !== undefined);
    return found()?.at ?? Number.POSITIVE_INFINITY;
  }

  /** Every process by another, one after the other. */
  restart(): Promise<void> {
    return this.cluster.restart();
  }

  stop(): Promise<void> {
    return this.cluster.stop();
  }
}

/** A main shard in this process, closed at the end of the case. */
export async function openMain(
  stage: Stage,
  plan: Plan,
  { model = stage.model, ...options }: Partial<ConnectOptions> & { readonly model?: ServedModel } = {},
): Promise<ShardedPredictor> {
  const predictor = await connect(plan, { bundle: model.dir, ...options });
  stage.defer(() => predictor.close());
  return predictor;
}
