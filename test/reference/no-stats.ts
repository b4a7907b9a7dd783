import { type PredictorStats, sumRpcCounts } from '../../src/observe/counters.js';

/** Stats of a predictor that counts nothing. */
export const NO_STATS: PredictorStats = {
  ...{ requests: 0, errors: 0, overloaded: 0, inFlight: 0, inFlightBytes: 0, concurrencyLimit: 1024, lingering: 0 },
  ...{ degraded: 0, nonFinite: 0, unseen: {} },
  ...sumRpcCounts([]),
};
