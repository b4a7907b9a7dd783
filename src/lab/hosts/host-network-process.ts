import type { NetworkAnswer, NetworkRequest } from './host-network-messages.js';
import { type NativeHostNetwork, nativeHosts } from './native-hosts.js';

/** The process that runs the switch between emulated hosts, so that a shard's or the predictor's own CPU time holds nothing of it. */

let network: NativeHostNetwork | null = null;

function answer(request: NetworkRequest): NetworkAnswer {
  if (request.ask === 'open') {
    network = new (nativeHosts().HostNetwork)(request.hosts, request.conditions, request.seed);
    return { answer: 'opened', namespaces: network.namespaces() };
  }
  if (network === null) return { answer: 'failed', reason: 'the network is not open' };
  if (request.ask === 'set-paths') {
    for (const { from, to, conditions } of request.paths) network.setPath(from, to, conditions);
    return { answer: 'set' };
  }
  const { user, system } = process.cpuUsage();
  return { answer: 'counters', counters: network.counters(), cpuMs: (user + system) / 1000 };
}

process.on('message', (request: NetworkRequest) => {
  let reply: NetworkAnswer;
  try {
    reply = answer(request);
  } catch (error) {
    reply = { answer: 'failed', reason: error instanceof Error ? error.message : String(error) };
  }
  process.send?.(reply);
});
// The terminal sends them to the whole group, but the shards need the network until they have drained: it ends with the launcher's channel.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
process.on('disconnect', () => {
  network?.close();
  process.exit(0);
});
