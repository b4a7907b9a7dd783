import { type Command, InvalidArgumentError, Option } from 'commander';
import { decimal } from '../decimal.js';
import type { NetworkOptions } from '../lab/hosts/host-network.js';
import type { HostOptions } from '../lab/hosts/hosts.js';
import { durationMs, positiveDurationMs, positiveInteger, positiveNumber } from './options.js';

/** Options of commands that launch shards: on which emulated hosts. */
export interface HostFlags {
  readonly hostCpu?: number;
  readonly networkDelay?: number;
  readonly networkJitter?: number;
  readonly networkLoss?: number;
  readonly networkSeed?: number;
}

/** Both with or without their sign: 50 or 50%. */
const withoutSign = (text: string): string => text.replace(/%$/, '');
const cpuPercent = (text: string): number => positiveNumber(withoutSign(text));

function lossPercent(text: string): number {
  const value = decimal(withoutSign(text));
  if (!(value >= 0 && value <= 100)) throw new InvalidArgumentError('It has to be decimal digits of a number from 0 to 100.');
  return value;
}

/** Adds the options, for whose hosts root is needed. */
export function addHostOptions(command: Command): Command {
  return command
    .addOption(new Option('--host-cpu <percent>', 'CPU of each shard, of one core: 50 is half a core (root)').argParser(cpuPercent))
    .addOption(
      new Option('--network-delay <time>', 'one way between hosts in network namespaces of their own, 0ms or more (root)').argParser(
        durationMs,
      ),
    )
    .addOption(new Option('--network-jitter <time>', 'give or take, of --network-delay').argParser(positiveDurationMs))
    .addOption(new Option('--network-loss <percent>', 'of the Ethernet frames between the hosts').argParser(lossPercent))
    .addOption(new Option('--network-seed <n>', 'of losses and jitter; default 1').argParser(positiveInteger));
}

export const usesNetwork = ({ networkDelay, networkJitter, networkLoss, networkSeed }: HostFlags): boolean =>
  [networkDelay, networkJitter, networkLoss, networkSeed].some((value) => value !== undefined);

/** What the options say; undefined when shards run as they are. */
export function hostsOf(flags: HostFlags): HostOptions | undefined {
  const { hostCpu, networkDelay = 0, networkJitter, networkLoss, networkSeed } = flags;
  if (hostCpu === undefined && !usesNetwork(flags)) return undefined;
  const network: NetworkOptions = {
    delayMs: networkDelay,
    ...(networkJitter !== undefined && { jitterMs: networkJitter }),
    ...(networkLoss !== undefined && { lossPercent: networkLoss }),
    ...(networkSeed !== undefined && { seed: networkSeed }),
  };
  return { ...(hostCpu !== undefined && { cpuPercent: hostCpu }), ...(usesNetwork(flags) && { network }) };
}
