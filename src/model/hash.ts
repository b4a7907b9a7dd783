import { createHash } from 'node:crypto';
import type { ModelSpec } from './spec.js';

/**
 * Sha-256 of the spec with sorted keys; the files' checksums are part of it, so that it stands for the weights too. A published bundle keeps
 * the spec that it was made of, and has its hash: what it holds of the model is no part of what the model is.
 */
export function modelHash(spec: ModelSpec): string {
  const canonical = JSON.stringify({ ...spec, published: undefined }, (_key, value: unknown) =>
    typeof value === 'object' && value !== null && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
      : value,
  );
  return createHash('sha256').update(canonical).digest('hex');
}
