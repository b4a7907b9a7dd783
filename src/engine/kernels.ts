import { native } from './native.js';

let fingerprint: string | undefined;

/**
 * What this process' kernels compute when they pool, as `<instruction set>:<hash of results>`: kernels whose hashes are equal give the same bits
 * of the same tables and requests, even when the instruction sets differ. Computed once, in about a millisecond.
 */
export function kernelFingerprint(): string {
  fingerprint ??= `${native.isa}:${native.fingerprints().pooling}`;
  return fingerprint;
}

/** Whether kernels with these fingerprints give the same bits when they pool. */
export const poolAlike = (one: string, other: string): boolean => hashOf(one) === hashOf(other);

const hashOf = (text: string): string => text.slice(text.indexOf(':') + 1);
