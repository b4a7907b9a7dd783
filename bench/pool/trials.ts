/** What is pooled: random ids over one table larger than the caches, unless it says otherwise. */
export interface PoolTrial {
  readonly name: string;
  readonly description: string;
  readonly format: 'fp32' | 'fp16' | 'bf16';
  readonly dim: number;
  /** Tables of equal size that share the bytes of the suite, pooled in one call. */
  readonly tables: number;
  readonly bagsPerTable: number;
  /** Ids per bag: 0 to twice as many; 1 is exactly one. */
  readonly poolingFactor: number;
}

const oneTable = (format: PoolTrial['format'], dim: number): PoolTrial => ({
  name: `${format}-dim${dim}`,
  description: `one table, 4096 bags of 0 to 64 ids`,
  format,
  dim,
  tables: 1,
  bagsPerTable: 4096,
  poolingFactor: 32,
});

const manyTables = (bagsPerTable: number): PoolTrial => ({
  name: `fp32-dim64-26tables-batch${bagsPerTable}`,
  description: `26 tables in one call, ${bagsPerTable} bags of one id each`,
  format: 'fp32',
  dim: 64,
  tables: 26,
  bagsPerTable,
  poolingFactor: 1,
});

export const poolTrials: readonly PoolTrial[] = [
  oneTable('fp32', 16),
  oneTable('fp32', 32),
  oneTable('fp32', 64),
  oneTable('fp32', 128),
  oneTable('fp16', 64),
  oneTable('bf16', 64),
  manyTables(1),
  manyTables(8),
  manyTables(128),
];
