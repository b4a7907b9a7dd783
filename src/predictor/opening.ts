import { aSignal, TerabagError } from '../errors.js';
import type { PredictorOptions } from './predictor.js';

interface Closable {
  close(): Promise<void>;
}

/** What opens a predictor is given: its options, whose onProgress throws when the opening was aborted, so that no more is read. */
type Open<P> = (options: Pick<PredictorOptions, 'onProgress'>) => Promise<P>;

/** Opens a predictor, unless the signal comes first: then it rejects at once (aborted), and what is opened in spite of that is closed. */
export async function openUnlessAborted<P extends Closable>(
  { signal, onProgress }: Pick<PredictorOptions, 'signal' | 'onProgress'>,
  open: Open<P>,
): Promise<P> {
  aSignal('signal', signal);
  if (signal == null) return open({});
  const aborted = (): TerabagError => new TerabagError('aborted', 'the opening was aborted', {}, { cause: signal.reason });
  if (signal.aborted) throw aborted();
  const opening = open({
    onProgress: (done, total) => {
      if (signal.aborted) throw aborted();
      onProgress?.(done, total);
    },
  });
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      reject(aborted());
      // Its own failure was told by the abort.
      opening.then((opened) => opened.close()).catch(() => undefined);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    opening.finally(() => signal.removeEventListener('abort', onAbort)).then(resolve, reject);
  });
}
