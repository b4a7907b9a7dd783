import { BatchMeter } from '../observe/batch-meter.js';
import type { ServerMetrics } from '../observe/metrics/server-metrics.js';
import { PredictorMeter } from '../observe/predictor-meter.js';
import type { Predictor } from '../predictor/predictor.js';
import { BatchingPredictor } from './batching/batching-predictor.js';
import type { ModelSource } from './served-model.js';

export interface Instruments {
  readonly metrics: ServerMetrics;
  /** How long requests wait for others at most, ms; 0: they are not merged. */
  readonly batchDelayMs: number;
  /** Of requests that name none; left out: that of the predictor, or of batching. */
  readonly deadlineMs?: number | undefined;
}

/** Opens the same model, whose requests are merged where that is asked for, and which metrics tell of until it is closed. */
export function instrumented(source: ModelSource, { metrics, batchDelayMs, deadlineMs }: Instruments): ModelSource {
  const { name: model, version } = source;
  return {
    ...source,
    open: async (signal) => {
      const inner = await source.open(signal);
      const batching = batchDelayMs > 0 ? new BatchMeter() : null;
      const predictor =
        batching === null
          ? inner
          : new BatchingPredictor(inner, { maxDelayMs: batchDelayMs, meter: batching, ...(deadlineMs !== undefined && { deadlineMs }) });
      // One that was opened without a meter tells nothing of its stages.
      const meter = inner.meter ?? new PredictorMeter();
      const unwatch = metrics.watchPredictor({ model, version, meter, ...(batching !== null && { batching }) });
      return untilClosed(predictor, unwatch);
    },
  };
}

const untilClosed = (predictor: Predictor, onClose: () => void): Predictor => ({
  modelHash: predictor.modelHash,
  model: predictor.model,
  ...(predictor.watched && { watched: predictor.watched }),
  ...(predictor.meter && { meter: predictor.meter }),
  predict: (request, options) => predictor.predict(request, options),
  readiness: () => predictor.readiness(),
  stats: () => predictor.stats(),
  close: () => {
    onClose();
    return predictor.close();
  },
});
