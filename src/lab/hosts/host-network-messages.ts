import type { NativeHost, NativeNetworkCounters, NativePathConditions } from './native-hosts.js';

/** New conditions of the way from one host to another. */
export interface NativePath {
  readonly from: number;
  readonly to: number;
  readonly conditions: NativePathConditions;
}

/** What a launcher asks of the process that runs the switch, over the channel of fork. */
export type NetworkRequest =
  | { readonly ask: 'open'; readonly hosts: readonly NativeHost[]; readonly conditions: NativePathConditions; readonly seed: number }
  | { readonly ask: 'set-paths'; readonly paths: readonly NativePath[] }
  | { readonly ask: 'counters' };

/** The answers, in the order of the requests. */
export type NetworkAnswer =
  | { readonly answer: 'opened'; readonly namespaces: readonly number[] }
  | { readonly answer: 'set' }
  | { readonly answer: 'counters'; readonly counters: NativeNetworkCounters; readonly cpuMs: number }
  | { readonly answer: 'failed'; readonly reason: string };
