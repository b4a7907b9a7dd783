import { opendir } from 'node:fs/promises';
import { constants, PerformanceObserver, performance } from 'node:perf_hooks';
import { collectDefaultMetrics, Gauge, type Registry } from 'prom-client';
import { Buckets, DURATION_BOUNDS } from '../buckets.js';
import { addHistogram, Family } from './family.js';
import { register } from './render.js';

/**
 * Not taken from prom-client: what is active, as names of it are refused by promtool (_total is of counters) and thousands of sockets are listed for it; percentiles of the event loop's delay, which cost 350 us a scrape,
 * are lost between two scrapes and cannot be summed; garbage collections, of which it counts one where several are told together; open files, whose
 * directory it reads at once.
 */
const REPLACED = /^(nodejs_active_.*|nodejs_eventloop_lag_.*|nodejs_gc_duration_seconds|process_open_fds)$/;
/** Of prom-client's monitor of the event loop, which nothing reads: as rarely as it can be. */
const UNREAD_MS = 1000;
/** How often the event loop's delay is sampled. */
const SAMPLE_MS = 20;
/** Directory entries of one turn of the event loop. */
const ENTRIES = 64;

const KINDS = new Map([
  [constants.NODE_PERFORMANCE_GC_MAJOR, 'major'],
  [constants.NODE_PERFORMANCE_GC_MINOR, 'minor'],
  [constants.NODE_PERFORMANCE_GC_INCREMENTAL, 'incremental'],
  [constants.NODE_PERFORMANCE_GC_WEAKCB, 'weakcb'],
]);

/** What is told of any process: CPU time, memory, open files, delay of the event loop, garbage collections. */
export function addProcessMetrics(registry: Registry): void {
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: UNREAD_MS });
  for (const { name } of registry.getMetricsAsArray()) if (REPLACED.test(name)) registry.removeSingleMetric(name);
  register(registry, [eventLoopDelay(), collections()]);
  if (process.platform === 'linux') addOpenFiles(registry);
}

function eventLoopDelay(): Family {
  const name = 'terabag_event_loop_delay_seconds';
  const help = `How late timers are called that are due every ${SAMPLE_MS} ms.`;
  const delays = new Buckets(DURATION_BOUNDS);
  let due = performance.now() + SAMPLE_MS;
  setInterval(() => {
    const now = performance.now();
    delays.record(Math.max(0, now - due) / 1000);
    due = now + SAMPLE_MS;
  }, SAMPLE_MS).unref();
  return new Family({ name, help, type: 'histogram', labels: [] }, function* (samples) {
    addHistogram(samples, name, '', delays);
    yield;
  });
}

function collections(): Family {
  const name = 'terabag_gc_duration_seconds';
  const kinds = new Map([...KINDS.values()].map((kind) => [kind, new Buckets(DURATION_BOUNDS)]));
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      const { kind } = (entry as { readonly detail?: { readonly kind: number } }).detail ?? { kind: -1 };
      kinds.get(KINDS.get(kind) ?? '')?.record(entry.duration / 1000);
    }
  });
  observer.observe({ entryTypes: ['gc'] });
  return new Family({ name, help: "Pauses of V8's garbage collector.", type: 'histogram', labels: ['kind'] }, function* (samples) {
    for (const [kind, durations] of kinds) {
      addHistogram(samples, name, `kind="${kind}"`, durations);
      yield;
    }
  });
}

function addOpenFiles(registry: Registry): void {
  new Gauge({
    name: 'process_open_fds',
    help: 'Number of open file descriptors.',
    registers: [registry],
    async collect() {
      let files = 0;
      try {
        // Its own is one of them.
        for await (const _ of await opendir('/proc/self/fd', { bufferSize: ENTRIES })) files++;
        this.set(files - 1);
      } catch {
        // Without a descriptor left, it is as it was.
      }
    },
  });
}
