import { Command } from 'commander';
import { liesOnHugePages, type ResidencyReport } from '../engine/residency.js';
import { SparseEngine } from '../engine/sparse-engine.js';
import { engineTables, everyPart } from '../engine/tables.js';
import { formatBytes } from '../lab/report/numbers.js';
import { openBundle, readModelSpec } from '../model/bundle.js';
import { rowBytes } from '../model/formats.js';
import { modelHash } from '../model/hash.js';
import { heldTables, ownFiles } from '../model/published.js';
import type { UnseenSpec } from '../model/unseen.js';
import { further } from './help.js';
import { printResidency } from './residency-table.js';
import { bytes, numeric, printTable, text } from './table.js';

export const inspectCommand = new Command('inspect')
  .description('show what a bundle holds')
  .argument('<bundle>', 'directory of the model')
  .option('--residency', 'show how much of each table file is in the page cache, and on huge pages; reads nothing of the tables')
  .option('--json', 'print JSON')
  .addHelpText(
    'after',
    further(`
Reads model.json alone; with --residency also the lengths and headers of the table files. Checksums are checked by terabag verify.

Examples:
  terabag inspect ./model
  terabag inspect ./model --json | jq .tables
  terabag inspect ./model --residency`),
  )
  .action(async (bundle: string, options: { json?: boolean; residency?: boolean }) => {
    if (options.residency) {
      await inspectResidency(bundle, options.json ?? false);
      return;
    }
    const spec = await readModelSpec(bundle);
    const hash = modelHash(spec);
    const { published } = spec;
    const held = heldTables(spec).filter((table) => table !== null);
    const tables = held.map(({ spec: { name, dim, format, unseen }, part, parts, rows, keys }) => ({
      name,
      ...(published && { part: `${part} of ${parts}` }),
      rows,
      dim,
      format,
      bytes: rows * rowBytes(format, dim),
      ...(unseen && { unseen }),
      ...(keys && { keys: keys.file, keysBytes: ownFiles(spec)[keys.file]?.bytes ?? 0 }),
    }));
    const layers = spec.nets.flatMap((net) => net.layers.map((layer) => ({ net: net.name, name: layer.name, type: layer.type })));
    if (options.json) {
      const { name, version, dense, onnx, output } = spec;
      console.log(
        JSON.stringify({ name, version, hash, dense, tables, layers, ...(onnx && { onnx }), output, ...(published && { published }) }),
      );
      return;
    }
    const total = tables.reduce((sum, { bytes }) => sum + bytes, 0);
    console.log(`${spec.name} ${spec.version}, hash ${hash.slice(0, 12)}: ${tables.length} tables, ${formatBytes(total)}`);
    if (published) console.log(`published for ${published.shard}: its rows of ${tables.length} of ${spec.tables.length} tables`);
    printTable<(typeof tables)[number]>(tables, [
      text('table', ({ name }) => name),
      ...(published ? [text<{ part?: string }>('part', ({ part = '' }) => part)] : []),
      numeric('rows', ({ rows }) => rows),
      numeric('dim', ({ dim }) => dim),
      text('format', ({ format }) => format),
      bytes('size', (table) => table.bytes),
      ...(tables.some(({ unseen }) => unseen) ? [text<{ unseen?: UnseenSpec }>('unseen ids', ({ unseen }) => unseenText(unseen))] : []),
      ...(tables.some(({ keys }) => keys) ? [text<{ keys?: string }>('keys', ({ keys = '' }) => keys)] : []),
    ]);
    console.log(
      `dense features: ${spec.dense.map(({ name, dim }) => `${name} (${dim})`).join(', ') || 'none'}; scores: ${spec.output}${spec.outputs === undefined ? '' : `; further outputs: ${spec.outputs.join(', ')}`}`,
    );
    if (spec.onnx) console.log(`dense part: ${spec.onnx.file}, an ONNX model`);
    printTable(layers, [text('net', ({ net }) => net), text('layer', ({ name }) => name), text('type', ({ type }) => type)]);
  });

/** As `hash to 1000 rows`. */
function unseenText({ policy, row, vector, rows }: UnseenSpec = { policy: 'reject' }): string {
  if (row !== undefined) return `${policy} row ${row}`;
  if (vector !== undefined) return `${policy} vector`;
  return rows === undefined ? policy : `${policy} to ${rows} rows`;
}

async function inspectResidency(dir: string, json: boolean): Promise<void> {
  const report = await measureBundle(dir);
  if (json) {
    console.log(JSON.stringify(report));
    return;
  }
  if (report === null) {
    console.log(`this system does not tell what is in memory: ${process.platform}`);
    return;
  }
  const { residentBytes, hugePageBytes, files } = report;
  const [resident, huge] = [formatBytes(residentBytes), formatBytes(hugePageBytes)];
  console.log(`${dir}: ${resident} of ${formatBytes(report.bytes)} in the page cache, ${huge} on huge pages`);
  printResidency(dir, files);
  if (files.some((file) => !file.known)) console.log('of files that it may not write, the system does not tell');
  const onSmallPages = files.some((file) => file.known && file.residentBytes === file.bytes && !liesOnHugePages(file));
  if (onSmallPages) console.log(`what lies on small pages is read anew by: terabag warm ${dir}`);
}

/** Null where the system does not tell. */
async function measureBundle(dir: string): Promise<ResidencyReport | null> {
  const bundle = await openBundle(dir, { verify: 'later', dense: false });
  const engine = new SparseEngine(engineTables(bundle, everyPart(bundle)), 'map');
  try {
    return await engine.measureResidency({ mapCached: true });
  } finally {
    engine.close();
  }
}
