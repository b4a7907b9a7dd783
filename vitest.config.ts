import { defineConfig } from 'vitest/config';

export default defineConfig({
  // Many tests wait for processes that they started: as many files at a time as there are cores.
  test: { pool: 'forks', maxWorkers: '100%', include: ['test/**/*.test.ts'], testTimeout: 120_000, hookTimeout: 120_000 },
});
