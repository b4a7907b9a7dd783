import type { Residency } from '../../engine/residency.js';
import { TerabagError } from '../../errors.js';
import { MAIN_SHARD, type Plan } from '../../plan/file/plan.js';
import { isNamePrefix } from './names.js';

/** Key files as terabag keygen makes them. */
export interface KeyTexts {
  readonly shardsKey: string;
  readonly shardsPublic: string;
  readonly mainKey: string;
  readonly mainPublic: string;
}

/** Where pods have their bundles from. */
export type BundleSource =
  /** A claim of a volume that terabag publish wrote to: a directory for each shard, and main. */
  | { readonly kind: 'claim'; readonly claim: string }
  /** A container that runs first and fills /bundle. In its command, $(TERABAG_SHARD) is the shard's name. */
  | { readonly kind: 'image'; readonly image: string; readonly command: readonly string[]; readonly storageClass: string | null };

/** Whom shards let in. */
export type KeySource =
  | { readonly kind: 'none' }
  /** Secrets are rendered. */
  | { readonly kind: 'files'; readonly texts: KeyTexts }
  /** Secrets of the names that would be rendered are made by others. */
  | { readonly kind: 'secrets' };

export interface KubernetesOptions {
  /** With which the names of all objects begin: of another model, or another version of it, another one. */
  readonly name: string;
  /** Null: whichever they are applied to. */
  readonly namespace: string | null;
  readonly image: string;
  /** Of Terabag. */
  readonly version: string;
  /** Of each shard; null: as many as the plan has endpoints for it. */
  readonly replicas: number | null;
  readonly residency: Residency;
  readonly verify: 'full' | 'size';
  /** How long a shard waits for requests in flight, and main takes further ones. */
  readonly drainMs: number;
  readonly bundle: BundleSource;
  readonly keys: KeySource;
  /** Of the type kubernetes.io/tls: main's certificate. */
  readonly tlsSecret: string | null;
  /** With a key named tokens: bearer tokens, one a line. */
  readonly tokenSecret: string | null;
}

/** Null where the plan does not say what it holds. */
export const heldBytesOf = ({ bytes }: Plan, shard: string): number | null => bytes?.[shard] ?? null;

export function checkOptions({ name, replicas }: KubernetesOptions): void {
  if (!isNamePrefix(name)) {
    const message = `names of objects begin with it: up to 40 lower-case letters, digits and dashes, the first a letter, the last no dash: ${name}`;
    throw new TerabagError('invalid_argument', message, { field: 'name' });
  }
  if (replicas !== null && !(Number.isSafeInteger(replicas) && replicas >= 1))
    throw new TerabagError('invalid_argument', `replicas has to be an integer, 1 or more: ${replicas}`, { field: 'replicas' });
}

export const MAIN = MAIN_SHARD;
