import type { DensePart } from '../../engine/dense-part.js';
import { openDensePart } from '../../engine/open-dense-part.js';
import { type EngineTable, SparseEngine } from '../../engine/sparse-engine.js';
import { engineTables } from '../../engine/tables.js';
import type { Bundle } from '../../model/bundle.js';
import type { RowFormat } from '../../model/formats.js';
import type { ResolvedModel } from '../../model/graph.js';
import { Pipeline } from '../../predictor/pipeline.js';
import { roundOnMain } from '../../predictor/rounds.js';
import { type EvaluateOptions, scoreRequests } from '../evaluate/evaluate-requests.js';
import type { ScoredItems } from '../evaluate/scored-items.js';

/** Where the rows of a table lie instead, in another format. */
export interface StoredRows {
  readonly path: string;
  readonly byteOffset: number;
  readonly format: RowFormat;
}

/** Scores the same requests with a bundle's tables in other formats; everything else stays open. */
export class FormatMeter {
  readonly #tables: readonly EngineTable[];

  private constructor(
    private readonly bundle: Bundle,
    private readonly net: DensePart,
    private readonly options: EvaluateOptions,
  ) {
    this.#tables = engineTables(bundle, () => [{ part: 0, parts: 1 }]);
  }

  static async open(bundle: Bundle, options: EvaluateOptions): Promise<FormatMeter> {
    return new FormatMeter(bundle, await openDensePart(bundle, 1, {}), options);
  }

  /** stored: by table, as its position in the spec says; others are read from the bundle. */
  async score(stored: ReadonlyMap<number, StoredRows>, onProgress?: EvaluateOptions['onProgress']): Promise<ScoredItems> {
    // Mapped: what the requests read is all that comes into memory, and the bundle's pages stay there for the next.
    const engine = await SparseEngine.open(
      this.#tables.map((table) => ({ ...table, ...stored.get(table.table) })),
      { residency: 'map' },
    );
    const model = this.bundle.model as ResolvedModel;
    const pipeline = new Pipeline({
      model,
      modelHash: this.bundle.hash,
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
