import { Command } from 'commander';
import { readModelSpec } from '../model/bundle.js';
import { modelHash } from '../model/hash.js';
import { tableBytes } from '../plan/bytes.js';

export const inspectCommand = new Command('inspect')
  .description('shows what a bundle holds')
  .argument('<bundle>', 'directory of the model')
  .option('--json', 'print JSON')
  .addHelpText('after', '\nExample:\n  terabag inspect ./model')
  .action(async (bundle: string, options: { json?: boolean }) => {
    const spec = await readModelSpec(bundle);
    const hash = modelHash(spec);
    const tables = spec.tables.map((table) => ({
      name: table.name,
      rows: table.rows,
      dim: table.dim,
      format: table.format,
      bytes: tableBytes(table),
    }));
    if (options.json) {
      console.log(JSON.stringify({ name: spec.name, version: spec.version, hash, tables }));
      return;
    }
    console.log(`${spec.name} ${spec.version}, hash ${hash.slice(0, 12)}, ${tables.length} tables`);
    console.table(tables);
  });
