/** What a sequence keeps of a bag that has more ids than it has positions; a bag that is pooled keeps all. */
export interface Truncated {
  readonly maxLength?: number | undefined;
  /** Absent: the last ones. */
  readonly truncate?: 'first' | 'last' | undefined;
}

/** Where the ids that are kept of [from, to) start and end; others are not looked at. */
export const firstKept = ({ maxLength = Number.POSITIVE_INFINITY, truncate }: Truncated, from: number, to: number): number =>
  truncate !== 'first' && to - from > maxLength ? to - maxLength : from;
export const endKept = ({ maxLength = Number.POSITIVE_INFINITY, truncate }: Truncated, from: number, to: number): number =>
  truncate === 'first' && to - from > maxLength ? from + maxLength : to;
