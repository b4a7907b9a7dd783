import { z } from 'zod';
import { ROW_FORMATS } from '../model/formats.js';
import { modelSchema } from '../model/spec.js';
import { formatPath } from '../tables/json.js';
import { checkJson, type JsonFileKind, readJsonFile } from '../tables/json-file.js';

const table = modelSchema.shape.tables.element;

/**
 * What an import is told of a model: model.json without what follows from the checkpoint. `tensor` is a name there. Absent, the row format is that of
 * the tensor's values.
 */
export const importSchema = modelSchema.omit({ files: true, published: true }).extend({
  tables: z.array(
    table.omit({ file: true, byteOffset: true, keys: true }).extend({
      rows: table.shape.rows.optional(),
      dim: table.shape.dim.optional(),
      format: z.enum(ROW_FORMATS).optional(),
      /** Of quantized rows: where the checkpoint has scale and bias. FBGEMM's tables for inference have them in front of the values, as float16. */
      scaleAndBias: z.enum(['front', 'behind']).optional(),
      /** Makes it a keyed table: the tensor of the checkpoint that has the key of each row. */
      keys: z.strictObject({ tensor: z.string().min(1) }).optional(),
    }),
  ),
});

export type ImportSpec = z.output<typeof importSchema>;
export type ImportTable = ImportSpec['tables'][number];

const KIND: JsonFileKind = { what: 'spec', code: 'invalid_argument', formatField: formatPath };

export const readImportSpec = (path: string): Promise<ImportSpec> => readJsonFile(path, KIND, importSchema);

/** Checks a spec that was made here. */
export const checkImportSpec = (path: string, spec: unknown): ImportSpec => checkJson(path, spec, KIND, importSchema);
