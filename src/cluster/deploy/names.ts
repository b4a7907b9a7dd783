import { createHash } from 'node:crypto';

/** Of a StatefulSet: its pods have a label of the name, a dash and a hash, of 63 characters at most. */
const MAX_NAME = 52;
const DIGEST = 8;

/** A name that objects of Kubernetes can have (a label of RFC 1035). Names that differ stay so. */
export function objectName(...parts: readonly string[]): string {
  const given = parts.join('-');
  const label = given
    .toLowerCase()
    .replace(/[^a-z0-9-]/g, '-')
    .replace(/^[^a-z]+/, '')
    .replace(/-+$/, '');
  if (label === given && label.length <= MAX_NAME) return label;
  const digest = createHash('sha256').update(given).digest('hex').slice(0, DIGEST);
  // A digest may begin with a digit, a name may not.
  return `${label.slice(0, MAX_NAME - DIGEST - 1).replace(/-+$/, '') || 'x'}-${digest}`;
}

/** Whether names can begin with it. */
export const isNamePrefix = (text: string): boolean => /^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$/.test(text);
