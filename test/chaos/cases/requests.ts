import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { type PredictRequest, TerabagError } from '../../../src/index.js';
import { brokenRequest } from '../../reference/small-requests.js';
import type { Case, Stage } from '../case.js';
import { ChaosCluster, openMain } from '../cluster.js';
import { checkPromise, failuresOf, PATIENT_MS, underLoad } from '../under-load.js';

const NUM_BROKEN = 400;
const VALUES = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 3.5e38] as const;

/** Requests of an application that are wrong, beside others that are not. */
async function beside(stage: Stage, ask: (predict: (request: PredictRequest) => Promise<unknown>) => Promise<void>): Promise<void> {
  const cluster = await ChaosCluster.start(stage);
  const main = await openMain(stage, cluster.plan);
  const load = underLoad(stage, main, { deadlineMs: PATIENT_MS });
  await sleep(300);
  await ask((request) => main.predict(request, { deadlineMs: PATIENT_MS }));
  await load.stop();
  const all = load.window();
  stage.expect(all.failed === 0, `${all.failed} of ${all.total} of the others failed: ${failuresOf(all)}`);
  stage.saw(`${all.failed} of ${all.total} of the others failed`);
  checkPromise(stage, load);
}

/** Whether an error says all that it has to say. */
const says = (error: unknown, code: string, details: Readonly<Record<string, unknown>>): boolean =>
  error instanceof TerabagError && error.code === code && Object.entries(details).every(([name, value]) => error.details[name] === value);

const badIds: Case = {
  name: 'bad-ids',
  does: `${NUM_BROKEN} requests with one fault each beside the load: ids out of range or of no kind, offsets that fall, end early or late, shapes that do not fit`,
  required: 'each ends with the code, table, bag and position of its fault; none of the others fails',
  run(stage) {
    // Before the load: it takes a second.
    const broken = fc.sample(brokenRequest, { seed: stage.seed, numRuns: NUM_BROKEN });
    return beside(stage, async (predict) => {
      let told = 0;
      for (const { what, request, code, details } of broken) {
        const end = await predict(request).catch((error: unknown) => error);
        if (says(end, code, details)) told++;
        else stage.expect(false, `${what}: ${end instanceof TerabagError ? `${end.code}, ${JSON.stringify(end.details)}` : 'answered'}`);
      }
      stage.saw(`${told} of ${broken.length} told what was wrong`);
    });
  },
};

const nonFinite: Case = {
  name: 'non-finite-dense',
  does: 'requests whose dense features are NaN, infinite or above what float32 holds, beside the load',
  required: 'each is refused (invalid_argument) with field and position; none of the others fails',
  run: (stage) =>
    beside(stage, async (predict) => {
      const [sound] = stage.model.requests as [PredictRequest];
      let told = 0;
      for (let count = 0; count < 100; count++) {
        const dense = Array.from(sound.dense['dense'] as ArrayLike<number>);
        const position = count % dense.length;
        dense[position] = VALUES[count % VALUES.length] as number;
        const end = await predict({ ...sound, dense: { dense: count % 2 === 0 ? dense : Float32Array.from(dense) } }).catch(
          (error: unknown) => error,
        );
        if (says(end, 'invalid_argument', { field: 'dense.dense', position })) told++;
        else
          stage.expect(
            false,
            `${dense[position]}: ${end instanceof TerabagError ? `${end.code}, ${JSON.stringify(end.details)}` : 'answered'}`,
          );
      }
      stage.saw(`${told} of 100 told where`);
    }),
};

export const REQUESTS: readonly Case[] = [badIds, nonFinite];
