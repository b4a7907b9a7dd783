/** How often tables did not have an id, and their rule let it pass, by the table's name; of the tables where that happened. */
export type UnseenCounts = Readonly<Record<string, number>>;

/** The sums of what these counted. */
export function sumUnseen(counted: Iterable<{ unseen(): Iterable<readonly [table: string, count: number]> }>): UnseenCounts {
  const sums = new Map<string, number>();
  for (const each of counted) for (const [table, count] of each.unseen()) sums.set(table, (sums.get(table) ?? 0) + count);
  return Object.fromEntries(sums);
}
