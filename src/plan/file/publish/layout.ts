import { normalize } from 'node:path';
import { TerabagError } from '../../../errors.js';
import { DENSE_FILE } from '../../../model/bundle.js';
import type { ModelSpec, PublishedPart } from '../../../model/spec.js';
import { headed, isPlacedBySpec } from '../../../model/table-file.js';
import { partRows, type RowPart } from '../../../tables/rows.js';
import type { SafetensorsHeader, TensorShape } from '../../../tables/safetensors.js';
import { MAIN_SHARD, type Plan } from '../plan.js';
import { placedParts } from '../published.js';

/** A file of a published bundle: some tensors of one source file, whole, or the rows of one part of each. */
export interface PublishedFile extends RowPart {
  /** Path of the source's file, and of this one, relative to their bundles. */
  readonly source: string;
  readonly file: string;
  /** The source's file as it is: nothing in it is another shard's. */
  readonly linked: boolean;
  readonly tensors: readonly TensorShape[];
  readonly metadata: Readonly<Record<string, string>>;
  /** Bytes of the tensors, or of the whole file when it is linked. */
  readonly bytes: number;
}

const TABLES_BESIDE_DENSE = 'dense.tables.safetensors';

export interface ShardLayout {
  readonly shard: string;
  readonly parts: readonly PublishedPart[];
  readonly files: readonly PublishedFile[];
}

/** tables/t.safetensors, or tables/t.part-0-of-2.safetensors. Tables that lie beside the dense weights get a file apart: that one is main's. */
const fileName = (source: string, { part, parts }: RowPart): string => {
  const whole = normalize(source) === DENSE_FILE ? TABLES_BESIDE_DENSE : source;
  return parts === 1 ? whole : `${whole.replace(/\.safetensors$/, '')}.part-${part}-of-${parts}.safetensors`;
};

/** What a shard's bundle holds, and in which files: per source file one of whole tensors and one per way that tables are split. */
export function layoutShard(plan: Plan, shard: string, spec: ModelSpec, headers: ReadonlyMap<string, SafetensorsHeader>): ShardLayout {
  const placed = placedParts(plan, shard);
  const placedBySpec = new Set(spec.tables.filter(isPlacedBySpec).map(({ file }) => file));
  const parts = spec.tables.flatMap(({ name, rows, file, tensor }): PublishedPart[] => {
    const part = placed.get(name);
    return part === undefined
      ? []
      : [{ table: name, ...part, rows: partRows(rows, part), file: fileName(placedBySpec.has(file) ? headed(file) : file, part), tensor }];
  });
  const sources = new Map(spec.tables.map(({ name, file }) => [name, file]));
  const groups = new Map<string, { source: string; part: RowPart; tensors: Set<string> }>();
  for (const { table, part, parts: of, file, tensor } of parts) {
    const source = sources.get(table) as string;
    const group = groups.get(file) ?? { source, part: { part, parts: of }, tensors: new Set() };
    if (group.source !== source)
      throw new TerabagError(
        'bad_model',
        `two table files would have one name when published: ${file}, from ${group.source} and ${source}`,
      );
    groups.set(file, group);
    group.tensors.add(tensor);
  }
  const files = [...groups].map(([file, { source, part, tensors }]) =>
    publishedFile({ header: headers.get(source) as SafetensorsHeader, source, placed: placedBySpec.has(source) }, file, part, tensors),
  );
  const dense = { source: DENSE_FILE, file: DENSE_FILE, part: 0, parts: 1, linked: true, tensors: [], metadata: {} };
  const denseFiles = shard === MAIN_SHARD ? [{ ...dense, bytes: spec.files[DENSE_FILE]?.bytes ?? 0 }] : [];
  return { shard, parts, files: [...denseFiles, ...files] };
}

interface SourceFile {
  readonly header: SafetensorsHeader;
  readonly source: string;
  /** Whether model.json says where the rows are: a file without the header that the published one needs. */
  readonly placed: boolean;
}

function publishedFile({ header, source, placed }: SourceFile, file: string, part: RowPart, wanted: ReadonlySet<string>): PublishedFile {
  const held = [...header.tensors].filter(([name]) => wanted.has(name)).sort(([, a], [, b]) => a.byteOffset - b.byteOffset);
  const linked = !placed && part.parts === 1 && held.length === header.tensors.size;
  const tensors = held.map(
    ([
      name,
      {
        dtype,
        shape: [rows = 0, width = 0],
      },
    ]) => ({ name, dtype, shape: [partRows(rows, part), width] }),
  );
  // What is said of a tensor that is not here would be read as if it were.
  const elsewhere = [...header.tensors.keys()].filter((name) => !wanted.has(name)).map((name) => `${name}.row_format`);
  const metadata = Object.fromEntries(Object.entries(header.metadata).filter(([key]) => !elsewhere.includes(key)));
  const rowsBytes = held.reduce(
    (
      sum,
      [
        ,
        {
          bytes,
          shape: [rows = 1],
        },
      ],
    ) => sum + (bytes / rows) * partRows(rows, part),
    0,
  );
  return { source, file, ...part, linked, tensors, metadata, bytes: linked ? header.fileBytes : rowsBytes };
}
