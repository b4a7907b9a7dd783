import { availableParallelism, cpus, release, totalmem } from 'node:os';
import { native } from '../../engine/native.js';

/** What a measurement ran on; goes with every figure. */
export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly system: string;
  readonly node: string;
  /** Kernels in use. */
  readonly isa: string;
}

export function describeMachine(): Machine {
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown CPU',
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    system: `${process.platform} ${release()} ${process.arch}`,
    node: process.versions.node,
    isa: native.isa,
  };
}

export const machineLine = ({ cpu, cores, memoryBytes, system, node, isa }: Machine): string =>
  `${cpu}, ${cores} cores, ${Math.round(memoryBytes / 2 ** 30)} GiB, ${system}, Node ${node}, kernels ${isa}`;
