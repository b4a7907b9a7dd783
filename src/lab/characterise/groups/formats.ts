import { rm } from 'node:fs/promises';
import { readModelSpec } from '../../../model/bundle.js';
import { isPacked, type RowFormat } from '../../../model/formats.js';
import { packBundle } from '../../../pack/pack-bundle.js';
import { tableBytes } from '../../../plan/placement/bytes.js';
import type { Characterisation } from '../../report/characterisation.js';
import { chosenSetup } from '../best.js';
import { type Experiment, packedBundle } from '../experiment.js';
import { compare, estimateTurns, type Group, serialTurns, type Turns } from '../group.js';
import type { Measured } from '../measured.js';
import { type Compared, comparedWith, SINGULAR } from '../setup.js';

/** Packing a GB of fp32 rows, all formats alike; measured on one core. */
const PACK_MS_PER_GB = 2500;

/** Packed against the rows as given, in one process and sharded. */
function setups({ scale }: Experiment, results: Characterisation): Compared[] {
  const given = [SINGULAR, chosenSetup(results, scale.shards)];
  return given.flatMap((setup) =>
    comparedWith(
      setup,
      scale.packedFormats.map((rowFormat) => ({ ...setup, rowFormat })),
    ),
  );
}

const turns = (experiment: Experiment): Turns => serialTurns(experiment, experiment.scale.rounds.others);

const GB = 1e9;
const bytesOf = ({ spec }: Experiment): number => spec.tables.reduce((sum, table) => sum + tableBytes(table), 0);

const packMs = (experiment: Experiment): number => (bytesOf(experiment) / GB) * PACK_MS_PER_GB * experiment.scale.packedFormats.length;

/** Null, or why the rows are not packed. */
function notPacked(experiment: Experiment): string | null {
  const { spec, scale } = experiment;
  if (spec.tables.some(({ format }) => isPacked(format))) return 'tables of the bundle are packed already';
  const bytes = bytesOf(experiment);
  return bytes <= scale.mostPackedBytes ? null : `packing ${(bytes / GB).toFixed(1)} GB takes too long for a quick run`;
}

export const formatsGroup: Group = {
  name: 'formats',
  description: 'rows packed as int8 and int4 against the rows as given',
  estimateMs: (experiment, results) =>
    notPacked(experiment) === null ? packMs(experiment) + estimateTurns(setups(experiment, results), experiment, [turns(experiment)]) : 0,
  run: async (experiment, results, onProgress): Promise<Partial<Measured>> => {
    const reason = notPacked(experiment);
    if (reason !== null) return { skipped: [{ experiment: 'formats', reason }] };
    const each = packMs(experiment) / experiment.scale.packedFormats.length;
    for (const [n, format] of experiment.scale.packedFormats.entries())
      await pack(experiment, format, (share) => onProgress((n + share) * each));
    const packedMs = packMs(experiment);
    return compare(setups(experiment, results), experiment, [turns(experiment)], (doneMs) => onProgress(packedMs + doneMs));
  },
};

/** Made once: a bundle of an earlier run that holds the same tables is used again, and one that does not is made anew. */
async function pack({ bundle, spec, dir, signal }: Experiment, format: RowFormat, onProgress: (share: number) => void): Promise<void> {
  const destination = packedBundle(dir, format);
  const there = await readModelSpec(destination).catch(() => null);
  const same = there?.tables.every(({ name, rows, dim }, t) => {
    const table = spec.tables[t];
    return table?.name === name && table.rows === rows && table.dim === dim;
  });
  if (same && there?.tables.length === spec.tables.length && there.version === spec.version) return;
  await rm(destination, { recursive: true, force: true });
  await packBundle(bundle, destination, { format, verify: 'size', signal, onProgress: (done, total) => onProgress(done / total) });
}
