import { Command } from 'commander';
import { readModelSpec } from '../model/bundle.js';
import { modelHash } from '../model/hash.js';
import { tableBytes } from '../plan/bytes.js';
import { formatBytes } from './options.js';

export const inspectCommand = new Command('inspect')
  .description('show what a bundle holds')
  .argument('<bundle>', 'directory of the model')
  .option('--json', 'print JSON')
  .addHelpText('after', '\nExamples:\n  terabag inspect ./model\n  terabag inspect ./model --json | jq .tables')
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
    const layers = spec.nets.flatMap((net) => net.layers.map((layer) => ({ net: net.name, name: layer.name, type: layer.type })));
    if (options.json) {
      console.log(JSON.stringify({ name: spec.name, version: spec.version, hash, dense: spec.dense, tables, layers, output: spec.output }));
      return;
    }
    const total = tables.reduce((sum, { bytes }) => sum + bytes, 0);
    console.log(`${spec.name} ${spec.version}, hash ${hash.slice(0, 12)}: ${tables.length} tables, ${formatBytes(total)}`);
    console.table(tables.map((table) => ({ ...table, bytes: formatBytes(table.bytes) })));
    console.log(`dense features: ${spec.dense.map(({ name, dim }) => `${name} (${dim})`).join(', ') || 'none'}; scores: ${spec.output}`);
    console.table(layers);
  });
