import type { RequestTraces } from './request-traces.js';

/** Where version 1 of OpenTelemetry's API keeps what an SDK has registered. */
const REGISTRY = Symbol.for('opentelemetry.js.api.1');

/** Spans of requests, where an SDK of OpenTelemetry has been started in this process; null otherwise, and then nothing is loaded for them. */
export async function openTraces(): Promise<RequestTraces | null> {
  const registered = (globalThis as { readonly [REGISTRY]?: { readonly trace?: unknown } })[REGISTRY];
  if (registered?.trace === undefined) return null;
  const { RequestTraces: Traces } = await import('./request-traces.js');
  return new Traces();
}
