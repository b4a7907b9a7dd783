import { normalize } from 'node:path';
import { TerabagError } from '../../../errors.js';
import { denseFile } from '../../../model/bundle.js';
import { countNamed } from '../../../model/id-rules.js';
import type { ModelSpec, PublishedPart } from '../../../model/spec.js';
import { headed, isPlacedBySpec } from '../../../model/table-file.js';
import { BUCKET_BYTES, homesOf, keyIndexKey } from '../../../tables/key-index.js';
import { partRows, type RowPart } from '../../../tables/rows.js';
import type { SafetensorsHeader, TensorInfo, TensorShape } from '../../../tables/safetensors.js';
import { MAIN_SHARD, type Plan } from '../plan.js';
import { placedParts } from '../published.js';
import { namedRowsOf } from './named-rows.js';

/** A file of a published bundle: some tensors of one source file, whole, or the rows of one part of each. */
export interface PublishedFile extends RowPart {
  /** Path of the source's file, and of this one, relative to their bundles. */
  readonly source: string;
  readonly file: string;
  /** The source's file as it is: nothing in it is another shard's. */
  readonly linked: boolean;
  readonly tensors: readonly TensorShape[];
  readonly metadata: Readonly<Record<string, string>>;
  /** Bytes of the tensors, or of the whole file when it is linked; of an index about so many. */
  readonly bytes: number;
  /** Of a part of a keyed table: number of the table, and whether the file has its rows or their index; null of other files. */
  readonly keyed: { readonly table: number; readonly holds: 'rows' | 'index' } | null;
}

/** How many keys each part of a split keyed table has, by name of the table. */
export type KeyCounts = ReadonlyMap<string, readonly number[]>;

const TABLES_BESIDE_DENSE = 'dense.tables.safetensors';

export interface ShardLayout {
  readonly shard: string;
  readonly parts: readonly PublishedPart[];
  readonly files: readonly PublishedFile[];
}

/** tables/t.safetensors, or tables/t.part-0-of-2.safetensors. Tables that lie beside the dense weights get a file apart: that one is main's. */
const fileName = (source: string, { part, parts }: RowPart, dense: string): string => {
  const whole = normalize(source) === dense ? TABLES_BESIDE_DENSE : source;
  return parts === 1 ? whole : `${whole.replace(/\.safetensors$/, '')}.part-${part}-of-${parts}.safetensors`;
};

/** The rows of a part of a keyed table, and their index: files of the table alone, since others have their rows elsewhere. */
const keyedFileName = (table: number, holds: 'rows' | 'index', { part, parts }: RowPart): string =>
  `tables/table-${table}.part-${part}-of-${parts}${holds === 'rows' ? '' : '.keys'}.safetensors`;

/**
 * What a shard's bundle holds, and in which files: per source file one of whole tensors and one per way that tables are split; of parts of keyed
 * tables two.
 */
export function layoutShard(
  plan: Plan,
  shard: string,
  spec: ModelSpec,
  headers: ReadonlyMap<string, SafetensorsHeader>,
  keyCounts: KeyCounts = new Map(),
): ShardLayout {
  const placed = placedParts(plan, shard);
  const placedBySpec = new Set(spec.tables.filter(isPlacedBySpec).map(({ file }) => file));
  const denseSource = denseFile(spec);
  const parts: PublishedPart[] = [];
  const keyedFiles: PublishedFile[] = [];
  const groups = new Map<string, { source: string; part: RowPart; tensors: Set<string> }>();
  const want = (source: string, tensor: string, part: RowPart): { file: string; tensor: string } => {
    const file = fileName(placedBySpec.has(source) ? headed(source) : source, part, denseSource);
    const group = groups.get(file) ?? { source, part, tensors: new Set() };
    if (group.source !== source)
      throw new TerabagError(
        'bad_model',
        `two table files would have one name when published: ${file}, from ${group.source} and ${source}`,
      );
    groups.set(file, group);
    group.tensors.add(tensor);
    return { file, tensor };
  };
  for (const [number, table] of spec.tables.entries()) {
    const { name, rows, file, tensor, keys } = table;
    const part = placed.get(name);
    if (part === undefined) continue;
    if (keys === undefined || part.parts === 1) {
      const held = { table: name, ...part, rows: partRows(rows, part), ...want(file, tensor, part) };
      parts.push(keys === undefined ? held : { ...held, keys: want(keys.file, keys.tensor, part) });
      continue;
    }
    const count = keyCounts.get(name)?.[part.part] ?? 0;
    if (count === 0)
      throw new TerabagError(
        'bad_plan',
        `a part of a keyed table has no keys: ${name}, part ${part.part} of ${part.parts}; split it over fewer`,
        {
          table: name,
          ...part,
        },
      );
    const [rowsFile, index] = [keyedFileName(number, 'rows', part), keyedFileName(number, 'index', part)];
    const info = headers.get(file)?.tensors.get(tensor) as TensorInfo;
    const packed = headers.get(file)?.metadata[`${tensor}.row_format`];
    const fallbackRows = countNamed(namedRowsOf(spec, number));
    keyedFiles.push(
      {
        ...{ source: file, file: rowsFile, ...part, linked: false, keyed: { table: number, holds: 'rows' } },
        tensors: [{ name: tensor, dtype: info.dtype, shape: [count + fallbackRows, info.shape[1] ?? 0] }],
        metadata: packed === undefined ? {} : { [`${tensor}.row_format`]: packed },
        bytes: (info.bytes / rows) * (count + fallbackRows),
      },
      {
        ...{ source: keys.file, file: index, ...part, linked: false, keyed: { table: number, holds: 'index' }, tensors: [], metadata: {} },
        bytes: homesOf(count) * BUCKET_BYTES,
      },
    );
    const counts = { rows: count, ...(fallbackRows > 0 && { fallbackRows }) };
    parts.push({ table: name, ...part, ...counts, file: rowsFile, tensor, keys: { file: index, tensor: keys.tensor } });
  }
  const files = [...groups].map(([file, { source, part, tensors }]) =>
    publishedFile({ header: headers.get(source) as SafetensorsHeader, source, placed: placedBySpec.has(source) }, file, part, tensors),
  );
  const taken = keyedFiles.find(({ file }) => groups.has(file));
  if (taken !== undefined) throw new TerabagError('bad_model', `two table files would have one name when published: ${taken.file}`);
  const dense = { source: denseSource, file: denseSource, part: 0, parts: 1, linked: true, tensors: [], metadata: {}, keyed: null };
  const denseFiles = shard === MAIN_SHARD ? [{ ...dense, bytes: spec.files[denseSource]?.bytes ?? 0 }] : [];
  return { shard, parts, files: [...denseFiles, ...files, ...keyedFiles] };
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
  const elsewhere = [...header.tensors.keys()]
    .filter((name) => !wanted.has(name))
    .flatMap((name) => [`${name}.row_format`, keyIndexKey(name)]);
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
  return { source, file, ...part, linked, tensors, metadata, bytes: linked ? header.fileBytes : rowsBytes, keyed: null };
}
