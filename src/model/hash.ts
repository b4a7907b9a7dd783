import { createHash } from 'node:crypto';
import type { ModelSpec } from './spec.js';

/** Sha-256 of the spec with sorted keys; the files' checksums are part of it, so that it stands for the weights too. */
export function modelHash(spec: ModelSpec): string {
  const canonical = JSON.stringify(spec, (_key, value: unknown) =>
    typeof value === 'object' && value !== null && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
      : value,
  );
  return createHash('sha256').update(canonical).digest('hex');
}
