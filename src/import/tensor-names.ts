import { badCheckpoint, type Checkpoint, type CheckpointTensor } from './checkpoint.js';

/** What trainers put around a state dict; a name may leave it out. */
const WRAPPERS: ReadonlySet<string> = new Set([
  'state_dict',
  'model_state_dict',
  'model',
  'module',
  'net',
  'app',
  'dlrm',
  'dmp',
  '_orig_mod',
  '_dmp_wrapped_module',
]);
const MOST_NEAR = 3;

/** A checkpoint's tensors by their names, and by those without the wrappers around them. */
export class TensorNames {
  /** By every name that leads to it. */
  readonly #named = new Map<string, CheckpointTensor[]>();

  constructor(private readonly checkpoint: Checkpoint) {
    for (const [name, tensor] of checkpoint.tensors) {
      for (let at = name; ; ) {
        this.#named.set(at, [...(this.#named.get(at) ?? []), tensor]);
        const dot = at.indexOf('.');
        if (dot < 0 || !WRAPPERS.has(at.slice(0, dot))) break;
        at = at.slice(dot + 1);
      }
    }
  }

  /** Null when there is none, or several. */
  find(name: string): CheckpointTensor | null {
    const exact = this.checkpoint.tensors.get(name);
    if (exact !== undefined) return exact;
    const found = this.#named.get(name) ?? [];
    return found.length === 1 ? (found[0] as CheckpointTensor) : null;
  }

  /** field: the place in the spec that names it. */
  get(name: string, field: string): CheckpointTensor {
    const found = this.find(name);
    if (found !== null) return found;
    const { path, skipped } = this.checkpoint;
    const several = this.#named.get(name);
    if (several !== undefined)
      throw badCheckpoint(
        path,
        `${field}: several tensors are meant: ${name}, it is ${several.map((tensor) => tensor.name).join(' or ')}`,
        { tensor: name, field },
      );
    const why = [...skipped].find(([other]) => other === name || other.endsWith(`.${name}`))?.[1];
    if (why !== undefined) throw badCheckpoint(path, `${field}: tensor cannot be served: ${name}, ${why}`, { tensor: name, field });
    throw badCheckpoint(path, `${field}: no such tensor: ${name}; ${this.#nearest(name)}`, { tensor: name, field });
  }

  #nearest(name: string): string {
    const names = [...this.checkpoint.tensors.keys()];
    if (names.length === 0) return 'the checkpoint has none';
    const near = names
      .map((other) => ({ other, shared: similarity(name, other) }))
      .sort((a, b) => b.shared - a.shared)
      .slice(0, MOST_NEAR)
      .map(({ other }) => other);
    return `near are ${near.join(', ')}; the checkpoint has ${names.length}`;
  }
}

/** How many pairs of characters two names share, of all that they have (Dice, 1945). */
function similarity(a: string, b: string): number {
  const pairs = (text: string): Map<string, number> => {
    const counts = new Map<string, number>();
    for (let at = 0; at + 2 <= text.length; at++) counts.set(text.slice(at, at + 2), (counts.get(text.slice(at, at + 2)) ?? 0) + 1);
    return counts;
  };
  const [inA, inB] = [pairs(a), pairs(b)];
  let shared = 0;
  for (const [pair, count] of inA) shared += Math.min(count, inB.get(pair) ?? 0);
  return (2 * shared) / Math.max(1, a.length + b.length - 2);
}
