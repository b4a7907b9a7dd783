import { createHash } from 'node:crypto';
import type { ModelSpec } from './spec.js';

/** Sha-256 of a plain value as JSON with sorted keys; fields that are undefined do not count. */
export const hashOfJson = (value: unknown): string => createHash('sha256').update(JSON.stringify(value, withSortedKeys)).digest('hex');

const withSortedKeys = (_key: string, value: unknown): unknown =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
    : value;

/**
 * Sha-256 of the spec with sorted keys; the files' checksums are part of it, so that it stands for the weights too. A published bundle keeps
 * the spec that it was made of, and has its hash: what it holds of the model is no part of what the model is.
 */
export function modelHash(spec: ModelSpec): string {
  return hashOfJson({ ...spec, published: undefined });
}
