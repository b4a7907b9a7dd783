import type { DensePart } from '../../engine/dense-part.js';
import { openDensePart } from '../../engine/open-dense-part.js';
import { SparseEngine } from '../../engine/sparse-engine.js';
import { engineTables, everyPart } from '../../engine/tables.js';
import type { Bundle, OpenKeyIndex, OpenTable } from '../../model/bundle.js';
import type { RowFormat } from '../../model/formats.js';
import { type ResolvedModel, resolveModel } from '../../model/graph.js';
import { readOnnxSignature } from '../../model/onnx/onnx-file.js';
import type { TableSpec } from '../../model/spec.js';
import { type Pruning, prunedSpec } from '../../pack/prune-table.js';
import { Pipeline } from '../../predictor/pipeline.js';
import { roundOnMain } from '../../predictor/rounds.js';
import { type EvaluateOptions, scoreRequests } from '../evaluate/evaluate-requests.js';
import type { ScoredItems } from '../evaluate/scored-items.js';

/** Where the rows of a table lie instead, in another format, or fewer of them. */
export interface StoredRows {
  readonly path: string;
  readonly byteOffset: number;
  readonly format: RowFormat;
  readonly pruned: { readonly pruning: Pruning; readonly index: OpenKeyIndex } | null;
}

/** Scores the same requests with a bundle's tables in other formats, or pruned; everything else stays open. */
export class FormatMeter {
  private constructor(
    private readonly bundle: Bundle,
    private readonly net: DensePart,
    private readonly options: EvaluateOptions,
  ) {}

  static async open(bundle: Bundle, options: EvaluateOptions): Promise<FormatMeter> {
    return new FormatMeter(bundle, await openDensePart(bundle, 1, {}), options);
  }

  /** stored: by table, as its position in the spec says; others are read from the bundle. */
  async score(stored: ReadonlyMap<number, StoredRows>, onProgress?: EvaluateOptions['onProgress']): Promise<ScoredItems> {
    const bundle = storedBundle(this.bundle, stored);
    const { model } = bundle;
    // Mapped: what the requests read is all that comes into memory, and the bundle's pages stay there for the next.
    const engine = await SparseEngine.open(engineTables(bundle, everyPart(bundle)), { residency: 'map' });
    const pipeline = new Pipeline({
      model,
      modelHash: bundle.hash,
      net: this.net,
      rounds: [roundOnMain(model)],
      shards: [],
      engine,
      onMain: true,
    });
    try {
      return await scoreRequests(pipeline, { ...this.options, onProgress });
    } finally {
      await pipeline.close();
      engine.close();
    }
  }

  close(): Promise<void> {
    return this.net.close();
  }
}

/** The bundle as if its tables had been written so. Its hash stays: nothing else is asked for rows. */
function storedBundle(bundle: Bundle, stored: ReadonlyMap<number, StoredRows>): Bundle & { readonly model: ResolvedModel } {
  const { spec: source, dense, onnx, dir } = bundle;
  const prunings = new Map<string, Pruning>();
  const keys = new Map<string, NonNullable<TableSpec['keys']>>();
  for (const [table, { path, pruned }] of stored) {
    const { name } = source.tables[table] as TableSpec;
    if (pruned === null) continue;
    prunings.set(name, pruned.pruning);
    keys.set(name, { file: path, tensor: name });
  }
  const pruned = prunedSpec(source, prunings, keys);
  const tables = pruned.tables.map((table, t): TableSpec => ({ ...table, format: stored.get(t)?.format ?? table.format }));
  const spec = { ...source, nets: pruned.nets, tables };
  const signature = onnx === null ? null : readOnnxSignature(onnx, dir);
  const model = resolveModel(spec, new Map([...dense].map(([name, { shape }]) => [name, shape])), signature);
  const opened = bundle.tables.map((open, t): OpenTable => {
    const { path, byteOffset, pruned } = stored.get(t) ?? { ...(open as OpenTable), pruned: null };
    const table = tables[t] as TableSpec;
    return { ...(open as OpenTable), spec: table, rows: table.rows, path, byteOffset, ...(pruned && { index: pruned.index }) };
  });
  return { ...bundle, spec, model, tables: opened };
}
