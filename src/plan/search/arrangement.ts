import { MAIN_SHARD, type Plan } from '../file/plan.js';
import { partBytes, type TableLoad } from '../placement/table-load.js';
import type { PlanPredictor, RequestShape } from '../predict/predict-plan.js';
import { type PredictedRequest, predictRequest } from '../predict/predict-request.js';
import { poolUs } from '../predict/request-cost.js';
import { addWork, noWork, partWork, type Work } from '../predict/work.js';

/** A table, or a part of one, that can be moved. */
export interface Piece {
  readonly table: number;
  readonly part: number;
  readonly parts: number;
  readonly bytes: number;
  /** Per round of RPCs. */
  readonly works: readonly Work[];
  /** us of an engine that pools it. */
  readonly poolUs: number;
  /** Number of its shard; main is the one after the last. */
  home: number;
}

/** A plan whose pieces move from shard to shard, with what each shard has of a request; one request shape. */
export class Arrangement {
  readonly pieces: readonly Piece[];
  /** Per shard, main last. */
  readonly bytes: number[];
  readonly held: Set<Piece>[];
  readonly main: number;
  /** By round, then by shard. */
  readonly #works: Work[][];

  constructor(
    readonly plan: Plan,
    tables: readonly TableLoad[],
    private readonly predictor: PlanPredictor,
    private readonly shape: RequestShape,
  ) {
    this.main = plan.shards.length;
    this.bytes = new Array<number>(this.main + 1).fill(0);
    this.held = this.bytes.map(() => new Set());
    this.#works = Array.from({ length: predictor.rounds }, () => this.bytes.map(noWork));
    this.pieces = this.#piecesOf(tables);
    for (const piece of this.pieces) this.#add(piece, 1);
  }

  #piecesOf(tables: readonly TableLoad[]): Piece[] {
    const numberOf = new Map(this.plan.shards.map(({ name }, shard) => [name, shard]));
    numberOf.set(MAIN_SHARD, this.main);
    const asked = tables.map((): (typeof this.shape.asked)[number][] => []);
    for (const one of this.shape.asked) asked[one.table]?.push(one);
    return this.plan.tables.flatMap(({ parts }, table) => {
      const works = Array.from({ length: this.predictor.rounds }, noWork);
      for (const one of asked[table] ?? []) addWork(works[this.predictor.roundOf(one)] as Work, partWork(one, parts.length));
      const pieceUs = works.reduce((us, work) => us + poolUs(this.predictor.costs, work), 0);
      return parts.map((shard, part): Piece => {
        const bytes = partBytes(tables[table] as TableLoad, parts.length, part);
        return { table, part, parts: parts.length, bytes, works, poolUs: pieceUs, home: numberOf.get(shard) as number };
      });
    });
  }

  move(piece: Piece, home: number): void {
    this.#add(piece, -1);
    piece.home = home;
    this.#add(piece, 1);
  }

  /** Whether a shard that is not main has room for the piece, and no other part of its table. */
  takes(shard: number, piece: Piece, limitBytes: number): boolean {
    if ((this.bytes[shard] as number) + piece.bytes > limitBytes) return false;
    if (piece.parts === 1) return true;
    if (shard === this.main) return false;
    for (const { table } of this.held[shard] ?? []) if (table === piece.table) return false;
    return true;
  }

  predict(): PredictedRequest {
    const { batches, denseUs } = this.shape;
    const rounds = this.#works.map((works) => ({ shards: works.slice(0, -1), own: works[this.main] as Work }));
    return predictRequest({ batches, rounds, denseUs }, this.predictor.costs);
  }

  /** The plan as it is now, without the shards that hold nothing. */
  toPlan(): Plan {
    const { plan } = this;
    const used = plan.shards.flatMap((_, shard) => ((this.held[shard] as Set<Piece>).size > 0 ? [shard] : []));
    const names = new Map(used.map((shard, position) => [shard, (plan.shards[position] as Plan['shards'][number]).name]));
    names.set(this.main, MAIN_SHARD);
    const parts = plan.tables.map((): string[] => []);
    for (const { table, part, home } of this.pieces) (parts[table] as string[])[part] = names.get(home) as string;
    return {
      ...plan,
      shards: plan.shards.slice(0, used.length),
      tables: plan.tables.map(({ table }, index) => ({ table, parts: parts[index] as string[] })),
    };
  }

  #add(piece: Piece, count: 1 | -1): void {
    const { home, bytes, works } = piece;
    this.bytes[home] = (this.bytes[home] as number) + count * bytes;
    if (count === 1) this.held[home]?.add(piece);
    else this.held[home]?.delete(piece);
    for (const [round, work] of works.entries()) {
      const sum = this.#works[round]?.[home] as Work;
      // What rounding leaves of works that were added and taken away would count as asked.
      if (this.held[home]?.size === 0) Object.assign(sum, noWork());
      else addWork(sum, work, count);
    }
  }
}
