import { expect, test } from 'vitest';
import { syncBudgetNs } from '../../../src/engine/sync-budget.js';

test('on one core jobs stay on the calling thread longer than where another core could take them', () => {
  expect(syncBudgetNs(1)).toBeGreaterThan(10 * syncBudgetNs(2));
  expect(syncBudgetNs(64)).toBe(syncBudgetNs(2));
});
