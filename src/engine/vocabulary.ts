import { TerabagError } from '../errors.js';
import { ROW_FORMATS, rowFormatInfo } from '../model/formats.js';
import { ACTIVATIONS, FEATURES, OPS, SEQUENCE_POOLINGS } from '../model/ops.js';
import { POOLING_NAMES, POOLINGS } from '../model/pooling.js';

/** The tables of native/kernels and native/engine that src/model has too; see checkVocabulary. */
export interface NativeVocabulary {
  readonly rowFormats: readonly { readonly name: string; readonly valueBits: number; readonly scaleAndBiasBytes: number }[];
  readonly poolings: readonly { readonly name: string; readonly flag: number }[];
  readonly ops: readonly string[];
  readonly activations: readonly string[];
  readonly sequencePoolings: readonly string[];
  readonly features: readonly string[];
}

/** The tables of src/model, as the addon has to have them. */
const EXPECTED: NativeVocabulary = {
  rowFormats: ROW_FORMATS.map((name) => {
    const { valueBits, scaleAndBiasBytes } = rowFormatInfo(name);
    return { name, valueBits, scaleAndBiasBytes };
  }),
  poolings: POOLING_NAMES.map((name) => ({ name, flag: POOLINGS[name].flag })),
  ops: Object.keys(OPS),
  activations: ACTIVATIONS,
  sequencePoolings: SEQUENCE_POOLINGS,
  features: FEATURES,
};

const listed = (entries: readonly unknown[] | undefined): string =>
  entries === undefined ? 'missing' : entries.map((entry) => (typeof entry === 'string' ? entry : JSON.stringify(entry))).join(', ');

/** Returns the addon, or refuses one whose tables are not those of src/model: it was built from other sources (native_addon). */
export function checkVocabulary<Addon extends { readonly vocabulary: NativeVocabulary }>(addon: Addon): Addon {
  for (const table of Object.keys(EXPECTED) as (keyof NativeVocabulary)[]) {
    const [expected, found] = [listed(EXPECTED[table]), listed((addon.vocabulary as NativeVocabulary | undefined)?.[table])];
    if (found !== expected)
      throw new TerabagError(
        'native_addon',
        `the native addon was built from another version of terabag; build it anew: npm rebuild terabag (in a checkout: npm run build:native). Its ${table} are ${found}; expected ${expected}`,
        { table },
      );
  }
  return addon;
}
