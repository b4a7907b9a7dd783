import { statfs } from 'node:fs/promises';
import { release } from 'node:os';
import { Command } from 'commander';
import { holdsHugePages, liesOnHugePages, type ResidencyReport } from '../engine/residency.js';
import { SparseEngine } from '../engine/sparse-engine.js';
import { engineTables, everyPart } from '../engine/tables.js';
import { TerabagError } from '../errors.js';
import { openBundle } from '../model/bundle.js';
import { further } from './help.js';
import { withProgress } from './progress.js';
import { printResidency } from './residency-table.js';

export const warmCommand = new Command('warm')
  .description("read a bundle's tables into the page cache, on huge pages: what lies there on small pages is dropped and read anew")
  .argument('<bundle>', 'directory of the model')
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    further(`
Stop what serves the bundle first: a file keeps its pages as long as a process maps it. Of the files, lengths and headers are checked;
checksums are by terabag verify.

Examples:
  terabag warm ./model
  terabag warm ./model --json | jq .after.hugePageBytes`),
  )
  .action(async (dir: string, options: { json?: boolean }) => {
    const bundle = await openBundle(dir, { verify: 'later', dense: false });
    const engine = new SparseEngine(engineTables(bundle, everyPart(bundle)));
    try {
      const before = told(await engine.measureResidency({ mapCached: true }));
      await engine.dropCached(before.files.filter((file) => file.residentBytes > 0 && !liesOnHugePages(file)).map(({ path }) => path));
      await withProgress('reading tables', 'bytes', (onProgress) => engine.fill(onProgress));
      const after = told(await engine.measureResidency());
      if (options.json) {
        console.log(JSON.stringify({ before, after }));
      } else {
        console.log('before');
        printResidency(dir, before.files);
        console.log('\nafter');
        printResidency(dir, after.files);
      }
      await remark(after);
    } finally {
      engine.close();
    }
  });

function told(report: ResidencyReport | null): ResidencyReport {
  if (report === null) throw new TerabagError('invalid_argument', `this system does not tell what is in memory: ${process.platform}`);
  return report;
}

/** Says on stderr why files lie on small pages nevertheless. */
async function remark({ files }: ResidencyReport): Promise<void> {
  const small = files.filter((file) => !liesOnHugePages(file));
  const [first] = small;
  if (first === undefined) return;
  const reason = holdsHugePages((await statfs(first.path)).type, release())
    ? 'a process maps them, or memory is short: stop it and try again'
    : 'this filesystem is not known to hold files on huge pages: serve with --residency hugepages';
  process.stderr.write(`terabag: ${small.length} of ${files.length} table files lie on small pages; ${reason}: ${first.path}\n`);
}
