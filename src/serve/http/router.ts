import { TerabagError } from '../../errors.js';
import { Refusal } from './refusal.js';

/** A route of a server: a method and a path whose segments in braces are parameters, as '/v2/models/{model}/infer'; ':verb' at its end is a literal. */
export interface Route<Handler> {
  readonly method: 'GET' | 'POST';
  readonly path: string;
  readonly handle: Handler;
}

interface Compiled<Handler> {
  readonly route: Route<Handler>;
  readonly segments: readonly { readonly name: string; readonly suffix: string; readonly parameter: boolean }[];
}

/** Finds the route of a request. */
export class Router<Handler> {
  /** By number of segments; those without parameters at a place come first. */
  readonly #routes = new Map<number, Compiled<Handler>[]>();

  constructor(routes: readonly Route<Handler>[]) {
    for (const route of routes) {
      const segments = route.path
        .slice(1)
        .split('/')
        .map((text) => {
          const [, name, suffix = ''] = /^\{(\w+)\}(.*)$/.exec(text) ?? [];
          return name === undefined ? { name: text, suffix: '', parameter: false } : { name, suffix, parameter: true };
        });
      const same = this.#routes.get(segments.length) ?? [];
      const literals = (compiled: Compiled<Handler>): number => compiled.segments.filter(({ parameter }) => !parameter).length;
      this.#routes.set(
        segments.length,
        [...same, { route, segments }].sort((a, b) => literals(b) - literals(a)),
      );
    }
  }

  /** Throws not_found of a path that no route has, and 405 of one that has other methods. HEAD is GET. */
  find(method: string, path: string): { readonly handle: Handler; readonly parameters: Readonly<Record<string, string>> } {
    const segments = path.slice(1).split('/').map(decoded);
    const methods = new Set<string>();
    for (const { route, segments: expected } of this.#routes.get(segments.length) ?? []) {
      const parameters = matched(expected, segments);
      if (parameters === null) continue;
      if (route.method === (method === 'HEAD' ? 'GET' : method)) return { handle: route.handle, parameters };
      methods.add(route.method);
    }
    if (methods.size === 0) throw new TerabagError('not_found', `there is nothing at ${path.slice(0, 200)}`);
    const allow = [...methods].join(', ');
    throw new Refusal(405, `${path.slice(0, 200)} takes ${allow}, not ${method}`, { allow });
  }
}

function matched(expected: Compiled<unknown>['segments'], segments: readonly string[]): Record<string, string> | null {
  const parameters: Record<string, string> = {};
  for (const [at, { name, suffix, parameter }] of expected.entries()) {
    const segment = segments[at] as string;
    if (!parameter) {
      if (segment !== name) return null;
      continue;
    }
    if (!segment.endsWith(suffix) || segment.length === suffix.length) return null;
    parameters[name] = segment.slice(0, segment.length - suffix.length);
  }
  return parameters;
}

/** What is no encoding stands for itself. */
function decoded(segment: string): string {
  if (!segment.includes('%')) return segment;
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}
